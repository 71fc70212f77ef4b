# A rule's name may hold a slash, so what the user types is the name of an aggregate rule over plain files;
# once more with the slash that tab completion adds.
for _paper in PAPERS:
    for _name in (f"results/{_paper}", f"results/{_paper}/"):

        rule:
            name: _name
            input: [f"results/{_paper}/{name}" for name in outputs(_paper)],


def _unknown(wildcards):
    raise WorkflowError(unknown_paper(wildcards.unknown.rstrip("/")))


rule unknown_paper:
    input: _unknown
    output: touch("results/{unknown}")
    wildcard_constraints:
        unknown=".+",
