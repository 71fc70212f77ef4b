# Whether there is anything to draw is decided by content (`is_current`), so times mean nothing here, too: a fresh clone
# after `dvc pull` draws nothing. Where it must be drawn, the marker is a file as new as now.
for _room in ROOMS:

    rule:
        name: f"draw_{_room.paper}"
        input:
            runs=[ancient(f"{job.path}/metrics.json") for job in _room.jobs],
            marker=ancient(marker(_room, SCALE)) if _room.current else marker(_room, SCALE),
        output:
            [
                report(f"results/{_room.paper}/{name}", category=_room.paper)
                if name.endswith((".png", "claims.csv")) else f"results/{_room.paper}/{name}"
                for name in _room.outputs
            ] or f"results/{_room.paper}.fault",
        log: f"logs/{_room.paper}/draw.log",
        params:
            command=drawing_command(_room, SCALE),
        message: "drawing results/" + _room.paper
        shell:
            "{params.command} 2>&1 | tee {log}"
