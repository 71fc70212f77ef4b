# A rule's name may hold a slash, so what the user types is the name of an aggregate rule over plain files;
# once more with the slash that tab completion adds.
def targets(room):
    """The files of a room's results, or what says why there are none."""
    return [f"results/{room.paper}/{name}" for name in room.outputs] or [f"results/{room.paper}.fault"]


for _room in ROOMS:
    for _name in (f"results/{_room.paper}", f"results/{_room.paper}/"):

        rule:
            name: _name
            input: targets(_room),


# Whatever else is asked for under results/: one line instead of "No rule to produce". The pattern leaves out what
# the rules make, or Snakemake would try this rule for every one of those files, too.
rule unknown_target:
    input: lambda wildcards: unknown_target(wildcards.unknown)
    output: touch("results/{unknown}")
    wildcard_constraints:
        unknown=unknown_targets(ROOMS),
