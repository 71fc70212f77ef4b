for _paper in PAPERS:

    rule:
        name: f"draw_{_paper}"
        input:
            runs=[f"{path}/metrics.json" for path, run in RUNS.items() if run.paper == _paper],
            drawing=drawing_digest(_paper, SCALE),
        output:
            [
                report(f"results/{_paper}/{name}", category=_paper)
                if name.endswith((".png", "claims.csv")) else f"results/{_paper}/{name}"
                for name in outputs(_paper)
            ],
        log: f"logs/{_paper}/draw.log",
        params:
            paper=_paper,
            scale=SCALE,
        message: "drawing results/" + _paper
        shell:
            "{sys.executable} -m common.report {params.paper} --scale {params.scale} 2>&1 | tee {log}"
