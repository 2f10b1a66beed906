"""How much of the machine's memory is free: for the trainer, and for the service, which loads no torch."""

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def ram_free() -> int:
    """Bytes that can still be allocated."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min([available, *cgroup_room(CGROUP)])


def cgroup_room(folder: Path) -> list[int]:
    """What this control group (version 2) still allows; nothing where it sets no limit."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        figures = dict(
            line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except (OSError, ValueError):
        return []
    # Pages of files that nobody uses now count as used, and go when room is wanted.
    return [] if limit == "max" else [int(limit) - used + int(figures.get("inactive_file", 0))]
