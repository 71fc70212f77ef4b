# Whether there is anything to draw is decided by content (`is_current`), so times mean nothing here, too: a fresh clone
# after `dvc pull` draws nothing. Where it must be drawn, the marker is a file as new as now.
def as_known(room, path):
    """An input of which the time means nothing where the room's results are current."""
    return ancient(path) if room.current else path


for _room in ROOMS:

    rule:
        name: f"draw_{_room.paper}"
        input:
            runs=[as_known(_room, f"{job.path}/metrics.json") for job in _room.jobs],
            marker=as_known(_room, marker(_room, SCALE)),
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
