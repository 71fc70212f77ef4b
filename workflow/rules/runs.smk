def _run(wildcards):
    return RUNS["runs/{paper}/{experiment}/{variant}/{seeds}-{key}".format(**wildcards)]


def _needed(wildcards):
    return [ancient(f"{path}/metrics.json") for path in [_run(wildcards).needs] if path]


# {key} is the digest of everything that decides a run's numbers, the run that it needs included, so a changed
# experiment is another file. Times mean nothing, and a run pulled with DVC into a fresh clone counts as done: the
# input is there for the order, and `update` keeps a done run where one that it needs is made again.
rule run:
    input:
        _needed,
    output:
        update("runs/{paper}/{experiment}/{variant}/{seeds}-{key}/metrics.json"),
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
