def _run(wildcards):
    return RUNS["runs/{paper}/{experiment}/{variant}/{seeds}-{key}".format(**wildcards)]


# No inputs: {key} is the digest of everything that decides a run's numbers, so a changed experiment is another
# file, and a run pulled with DVC into a fresh clone counts as done whatever its time.
rule run:
    output:
        "runs/{paper}/{experiment}/{variant}/{seeds}-{key}/metrics.json",
    log:
        "logs/{paper}/{experiment}/{variant}/{seeds}-{key}.log",
    params:
        options=lambda wildcards: options_of(_run(wildcards)),
    threads: lambda wildcards: _run(wildcards).threads
    resources:
        mem_mb=lambda wildcards: _run(wildcards).memory,
        runtime=lambda wildcards: _run(wildcards).minutes,
        gpu=lambda wildcards: _run(wildcards).gpus,
    message: "training {wildcards.paper} {wildcards.experiment} {wildcards.variant} {wildcards.seeds}"
    shell:
        "{sys.executable} -m papers.{wildcards.paper} {params.options} --threads {threads}"
        " --out $(dirname {output}) --key {wildcards.key} --wait --quiet 2>&1 | tee {log}"
