def _job(wildcards):
    return job_of(ROOMS, "runs/{paper}/{experiment}/{variant}/{seeds}-{key}".format(**wildcards))


def _parent(wildcards):
    return [ancient(f"{path}/metrics.json") for path in [_job(wildcards).parent] if path]


# {key} is the digest of everything that decides a run's numbers, its parent included, so a changed experiment is
# another file. Times mean nothing, and a run pulled with DVC into a fresh clone counts as done: the input is there for
# the order, and `update` keeps a done run where its parent is made again.
rule run:
    input:
        _parent,
    output:
        update("runs/{paper}/{experiment}/{variant}/{seeds}-{key}/metrics.json"),
    log:
        "logs/{paper}/{experiment}/{variant}/{seeds}-{key}.log",
    params:
        options=lambda wildcards: options_of(_job(wildcards)),
    threads: lambda wildcards: _job(wildcards).threads
    resources:
        mem_mb=lambda wildcards: _job(wildcards).memory,
        runtime=lambda wildcards: _job(wildcards).minutes,
        gpu=lambda wildcards: _job(wildcards).gpus,
    message: "training {wildcards.paper} {wildcards.experiment} {wildcards.variant} {wildcards.seeds}"
    shell:
        "{PYTHON} -m papers.{wildcards.paper} {params.options}"
        " --out $(dirname {output}) --key {wildcards.key} --wait --quiet 2>&1 | tee {log}"
