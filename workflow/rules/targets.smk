# A rule's name may hold a slash, so what the user types is the name of an aggregate rule over plain files;
# once more with the slash that tab completion adds.
for _paper in PAPERS:
    for _name in (f"results/{_paper}", f"results/{_paper}/"):

        rule:
            name: _name
            input: [f"results/{_paper}/{name}" for name in outputs(_paper)],


# Whatever else is asked for under results/: one line instead of "No rule to produce". The pattern leaves out what
# the rules make, or Snakemake would try this rule for every one of those files, too.
rule unknown_target:
    input: lambda wildcards: unknown_target(wildcards.unknown)
    output: touch("results/{unknown}")
    wildcard_constraints:
        unknown=unknown_targets(PAPERS),
