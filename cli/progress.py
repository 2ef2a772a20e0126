"""How a run is watched: on a terminal one line with a bar that is drawn anew in place, elsewhere a line every few seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import Any

from onnxprune.progress import Progress, Share, words
from onnxprune.report.visible import visible

FIRST, EVERY = 0.3, 5.0
"""Seconds until a run that nobody watches first says what it is doing, and from then on between two lines."""
WIDTH = 80  # columns at most
BAR = 16  # columns, on terminals of which it takes no more than a quarter
FRAMES = 4  # of a second
TELLING = 0.02  # of a run: with less of it over, the time left would be a guess of hours
UNITS = ((3600, "h"), (60, "min"), (1, "s"))


class Watch:
    """What a run is doing, how long it has been, and how far it has come; ``progress`` is what the run tells."""

    def __init__(self, clock: Callable[[], float] = monotonic):
        self._clock, self._begun = clock, clock()
        self._text, self._share = "starting", float  # type: str, Share
        self._reached = 0.0
        self.progress = Progress(self._told)

    def _told(self, text: str, share: Share) -> None:
        self._text, self._share = words(text), share

    @property
    def text(self) -> str:
        return visible(self._text)

    @property
    def seconds(self) -> float:
        return self._clock() - self._begun

    @property
    def share(self) -> float:
        """What is over of the run, never less than before; 0 while that is not known."""
        self._reached = max(self._reached, min(max(self._share(), 0.0), 1.0))
        return self._reached

    @property
    def left(self) -> str:
        """Say how much longer the run takes; empty while too little is over to tell."""
        share = self.share
        return f"{duration(self.seconds * (1 - share) / share, rough=True)} left" if share >= TELLING else ""

    def line(self, width: int = WIDTH) -> str:
        """Return all of it in one line of so many characters at most."""
        share, left = self.share, self.left
        ahead = [f"{share:4.0%}", left] if left else []
        head = "  ".join([f"{duration(self.seconds):>6}", *ahead])
        return within(f"{head}  {self.text}", width)


def within(text: str, width: int) -> str:
    """Return a text that takes no more than so many columns, however wide its characters are."""
    from rich.text import Text

    short = Text(text)
    short.truncate(max(width, 1), overflow="ellipsis")
    return short.plain


def duration(seconds: float, rough: bool = False) -> str:
    """Return ``45 s``, ``3 min 20 s``, ``2 h 5 min``; ``rough``: to five seconds above twenty, to a minute above ten minutes."""
    step = 1 if seconds < 20 or not rough else 5 if seconds < 600 else 60
    whole, found = round(seconds / step) * step, list[str]()
    for size, unit in UNITS:
        count, whole = divmod(whole, size)
        if count:
            found.append(f"{count} {unit}")
    return " ".join(found[:2]) or "0 s"


@contextmanager
def lines(tell: Callable[[str], None]) -> Iterator[Progress]:
    """Yield a progress that is told in a line every few seconds."""
    watch, ended = Watch(), Event()

    def tick() -> None:
        pause = FIRST
        while not ended.wait(pause):
            tell(watch.line())
            pause = EVERY

    thread = Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield watch.progress
    finally:
        ended.set()
        thread.join()


@contextmanager
def bar(console: Any) -> Iterator[Progress]:
    """Yield a progress that is shown in a line of a terminal, which is gone at the end."""
    from rich.live import Live

    watch = Watch()
    shown = Live(
        get_renderable=lambda: _drawn(watch, min(console.width, WIDTH)),
        console=console, refresh_per_second=FRAMES, transient=True,
    )  # fmt: skip
    with shown:
        yield watch.progress


def _drawn(watch: Watch, width: int) -> Any:
    """Return the line: what is done, a bar, the share, the time left; on narrow terminals without the bar."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    share, left = watch.share, watch.left
    row: list[Any] = [Text(watch.text, no_wrap=True, overflow="ellipsis")]
    if width >= 4 * BAR:
        row.append(ProgressBar(total=1.0, completed=share, width=BAR))
    row.append(Text(f"{share:4.0%}" if left else "", no_wrap=True))
    row.append(Text(left or duration(watch.seconds), no_wrap=True))
    table = Table.grid(padding=(0, 1), expand=True)
    table.width = max(width - 1, 1)  # the last column of a terminal may wrap
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for _ in row[1:]:
        table.add_column(no_wrap=True, justify="right")
    table.add_row(*row)
    return table


def each(tell: Callable[[str], None]) -> Progress:
    """Return a progress that is told in a line per stage, and of what is counted inside one in a line a second."""
    begun, last = monotonic(), [-1.0]

    def show(text: str, _: Share) -> None:
        now, told = monotonic(), words(text)
        if told != text or now - last[0] >= 1.0:
            last[0] = now
            tell(f"{now - begun:6.1f} s  {told}")

    return Progress(show)
