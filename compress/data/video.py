# SPDX-License-Identifier: Apache-2.0
"""Single frames out of video files, found by their time. The only file that imports `av` (FFmpeg)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from compress.data.faults import DemoFileError

MAX_OPEN = 16


class VideoSupportError(ImportError):
    """The video library is not installed; the message says how to."""


class Videos:
    """Open video files, the last used ones kept open."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, _Video] = OrderedDict()

    def frame(self, path: Path, time_s: float, tolerance_s: float, where: str) -> np.ndarray:
        """The frame at `time_s`, uint8 (H, W, 3) RGB.

        Args:
            path: the video.
            time_s: on the video's own clock [s].
            tolerance_s: how far the frame may be off [s]; half the period of a frame.
            where: episode and frame, for messages.

        Raises:
            DemoFileError: the file is missing or damaged, or has no frame there.
            VideoSupportError: `av` is not installed.
        """
        if path not in self._open:
            self._open[path] = _Video(path, where)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path].frame(time_s, tolerance_s, where)

    def close(self) -> None:
        """All of them."""
        while self._open:
            self._open.popitem()[1].close()


class _Video:
    def __init__(self, path: Path, where: str) -> None:
        av = _av()
        if not path.is_file():
            raise DemoFileError(f"{path}: no such file, needed for {where}. Next: copy the data set completely")
        self.path, self._errors = path, (av.error.FFmpegError, OSError, ValueError, IndexError)
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except self._errors as error:
            size = path.stat().st_size
            raise DemoFileError(
                f"{path} ({size} bytes), needed for {where}, is truncated or not a video: {error}. Next: copy it again"
            ) from error
        self._frames: Iterator[Any] = iter(())
        self._last: Any = None
        self._reach_s = 0.0  # how far from its key frame a sought frame has been: up to there decoding on is no slower

    def frame(self, time_s: float, tolerance_s: float, where: str) -> np.ndarray:
        """The frame within `tolerance_s` of `time_s`."""
        reach_s = max(self._reach_s, 4 * tolerance_s)
        ahead = self._last is not None and -tolerance_s < time_s - self._last.time <= reach_s
        found = self._decode_to(time_s, tolerance_s, where) if ahead else None
        for start_s in (time_s, 0.0) if found is None else ():  # some indices point behind the frame: then from zero
            self._seek(start_s, where)
            found = self._decode_to(time_s, tolerance_s, where)
            if found is not None:
                break
        if found is None:
            near = "no frame at all" if self._last is None else f"the nearest decoded one at {self._last.time:.4f} s"
            raise DemoFileError(
                f"{self.path}: {where} needs the frame at {time_s:.4f} s within {tolerance_s:.4f} s, found {near}. "
                "Next: check fps and timestamps of the data set, or copy the video again"
            )
        image: np.ndarray = found.to_ndarray(format="rgb24")
        return image

    def _seek(self, time_s: float, where: str) -> None:
        self._last = None
        try:
            self._container.seek(max(0, int(time_s / self._stream.time_base)), stream=self._stream)
            self._frames = self._container.decode(self._stream)
        except self._errors as error:
            raise self._damaged(where, error) from error

    def _decode_to(self, time_s: float, tolerance_s: float, where: str) -> Any:
        """Decode until the frame is reached; None if the frames jump over it or end before it."""
        while self._last is None or self._last.time < time_s + tolerance_s:
            if self._last is not None and abs(self._last.time - time_s) < tolerance_s:
                return self._last
            try:
                frame = next(self._frames, None)
            except self._errors as error:
                raise self._damaged(where, error) from error
            if frame is None:
                return None
            if self._last is None and frame.time is not None:
                self._reach_s = max(self._reach_s, time_s - frame.time)
            self._last = frame if frame.time is not None else self._last
        return None

    def _damaged(self, where: str, error: BaseException) -> DemoFileError:
        return DemoFileError(f"{self.path}: damaged where {where} lies: {error}. Next: copy it again")

    def close(self) -> None:
        """Release the file."""
        self._container.close()


def _av() -> ModuleType:
    try:
        import av
        import av.error
    except ImportError as error:
        raise VideoSupportError(
            f"reading video needs `av`, which cannot be imported ({error}). Next: pip install 'dropgate[compress]'"
        ) from error
    return av
