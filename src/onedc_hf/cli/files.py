"""Inputs, names of outputs, and getting on when one file of many is bad."""

import argparse
import dataclasses
import glob
import os
import stat
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from .._register import MAGIC
from ..errors import BitstreamError, NotOneDC, OneDCError, PictureError, UnsupportedVersion
from ..picture_kinds import first_bytes, is_picture, says_picture
from ..saving import write_atomically
from .streams import STDIN, STDOUT, read_stdin, write_stdout
from .text import count

__all__ = [
    "Job",
    "UsageError",
    "add_output_arguments",
    "complain",
    "find_inputs",
    "is_named_odc",
    "is_odc",
    "is_picture",
    "leave_stdout",
    "missing",
    "plan",
    "plan_as_asked",
    "read",
    "refuse_output_among",
    "report",
    "run_all",
    "say",
    "write_output",
]


class UsageError(Exception):
    """The command line asks for something that makes no sense; ends with exit code 2."""


@dataclass(frozen=True)
class Job:
    """One file to read and one to write.

    Args:
        source (`Path`): what to read.
        target (`Path`): what to write.
        problem (`str`): why this one cannot be done, or empty.
        existing (`str`): what to do with a file that is there already: `refuse`, `replace` or `leave` it.
    """

    source: Path
    target: Path
    problem: str = ""
    existing: Literal["refuse", "replace", "leave"] = "refuse"


def is_named_odc(path: Path) -> bool:
    """Whether a file, which need not exist, has the suffix of an `.odc` file."""
    return path.suffix.lower() == ".odc"


def is_odc(path: Path) -> bool:
    """Whether a file in a folder is meant: by its suffix, or by its first bytes."""
    return is_named_odc(path) or first_bytes(path, 2) == MAGIC


def find_inputs(patterns: Sequence[str], is_meant: Callable[[Path], bool]) -> tuple[list[Path], list[str]]:
    """Turn files, glob patterns and folders into a list of files without repetitions; `-` is standard input.

    Of a folder, the files directly in it that `is_meant` accepts, sorted; hidden ones are left out. A file that is
    named is kept whatever it is, also if it does not exist: the reader says what is wrong with it.

    Returns:
        `tuple`: the files, and a message for each pattern or folder that gave none.
    """
    found: dict[Path, None] = {}
    problems = []
    for pattern in patterns:
        try:
            files, problem = _matches(pattern, is_meant)
        except OSError as error:  # a folder without permission, a name too long: the others are still to be done
            files, problem = [], f"{pattern}: {error.strerror or error}"
        found.update(dict.fromkeys(files))
        if not files:
            problems.append(problem)
    return list(found), problems


def _matches(pattern: str, is_meant: Callable[[Path], bool]) -> tuple[list[Path], str]:
    """The files that one argument means, and what to say if they are none."""
    if pattern in (str(STDIN), "/dev/stdin"):
        return [STDIN], ""
    path = Path(pattern)
    if path.is_dir():
        files = sorted(
            entry for entry in path.iterdir() if entry.is_file() and entry.name[0] != "." and is_meant(entry)
        )
        return files, f"{pattern}: nothing to do in this folder (folders below it are not searched; use '{pattern}/**')"
    if not path.exists() and glob.has_magic(pattern):
        files = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
        if "**" in pattern:  # reaches everything there is, so it chooses as a folder does
            files = [file for file in files if is_meant(file)]
        return files, f"{pattern}: no file matches"
    return [path], ""


def _may_be_several(pattern: str) -> bool:
    return os.path.isdir(pattern) or (not os.path.exists(pattern) and glob.has_magic(pattern))


def missing(path: Path) -> str:
    """Why an input cannot be read, as far as its name says, or nothing: found out before a model is loaded for it."""
    try:
        return "" if path == STDIN or path.exists() else "no such file"
    except OSError as error:
        return error.strerror or str(error)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--output`, and what is done about outputs that exist."""
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="a file, a folder (existing, or ending in a slash), or -"
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="replace files that exist")
    existing.add_argument("--resume", action="store_true", help="leave files that exist as they are and do the others")


def plan(
    sources: Sequence[Path],
    output: str | None,
    suffix: str,
    *,
    inputs: Sequence[str] = (),
    force: bool = False,
    resume: bool = False,
) -> list[Job]:
    """Give every input its output.

    Args:
        sources (`Sequence[Path]`): inputs.
        output (`str`, *optional*): what `-o` says: a file (for one input), or a folder: an existing one, or one named
            with a slash at its end, which is made; or `-`, standard output, where one file is written to be handed on.
            By default, outputs lie beside their inputs; that of standard input goes to standard output.
        suffix (`str`): suffix of the outputs, unless `output` names a file.
        inputs (`Sequence[str]`): what the sources were found by: files, patterns, folders.
        force (`bool`): existing files may be replaced.
        resume (`bool`): inputs whose output exists are left out; one that is empty or cut is made again.

    Raises:
        `UsageError`: one output file for several inputs, or for a folder or pattern, however many files that gives
            today; a folder that does not exist; or an `.odc` file under the name of a picture.
    """
    if STDIN in sources and len(inputs or sources) > 1:
        raise UsageError("- is standard input, which holds one file: give it alone")
    if output in ("-", str(STDOUT)) or (output is None and STDIN in sources):
        return [_to_stdout(sources, inputs)] if sources else []
    folder = None
    if output is not None and (output.endswith(("/", os.sep)) or os.path.isdir(output)):
        folder = Path(output)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"-o {output}: cannot make this folder ({error.strerror})") from error
    elif output is not None and len(sources) > 1:
        raise UsageError(f"-o {output} names one file, but there are {len(sources)} inputs; for a folder: -o {output}/")
    elif output is not None and (several := next(filter(_may_be_several, inputs), None)) is not None:
        raise UsageError(f"-o {output} names one file, but {several} can be several; for a folder: -o {output}/")
    elif output is not None and not os.path.isdir(Path(output).parent):
        raise UsageError(f"-o {output}: there is no folder {Path(output).parent}")
    elif output is not None and suffix == ".odc" and says_picture(Path(output)):
        raise UsageError(
            f"-o {output}: what is written is no picture but an .odc file; name it {Path(output).with_suffix(suffix)}"
        )

    jobs, left_out = [], 0
    existing: Literal["refuse", "replace", "leave"] = "replace" if force else "leave" if resume else "refuse"
    taken: dict[tuple[str, str], Path] = {}  # place of an output -> its input
    for source in sources:
        if folder is not None:
            target = folder / (source.stem + suffix)
        else:
            target = source.with_suffix(suffix) if output is None else Path(output)
        job, key = Job(source, target, existing=existing), _place(target)
        try:
            standing = _standing(job, taken.get(key), suffix)
        except (OneDCError, OSError) as error:
            jobs.append(dataclasses.replace(job, problem=_message(error)))
        else:
            if standing == "cut":
                jobs.append(dataclasses.replace(job, existing="replace"))
            elif standing == "absent":
                jobs.append(job)
            left_out += standing == "done"
        taken.setdefault(key, source)
    if left_out:
        report(f"{count(left_out, 'file')} there already")
    return jobs


def _to_stdout(sources: Sequence[Path], inputs: Sequence[str]) -> Job:
    """The one job whose output is handed on.

    Raises:
        `UsageError`: there are several, or there is nobody to hand it on to.
    """
    if len(sources) > 1 or any(map(_may_be_several, inputs)):
        raise UsageError("-o - hands on one file, and there can be several inputs; for a folder: -o FOLDER/")
    if sys.stdout is not None and sys.stdout.isatty():
        raise UsageError("what is written is nothing for a terminal: hand it on (> FILE), or name a file with -o")
    return Job(sources[0], STDOUT, missing(sources[0]), "replace")


def plan_as_asked(arguments: argparse.Namespace, sources: Sequence[Path], suffix: str) -> list[Job]:
    """`plan` as the arguments of `add_output_arguments`, and the command's `inputs`, say."""
    return plan(
        sources,
        arguments.output,
        suffix,
        inputs=arguments.inputs,
        force=arguments.force,
        resume=arguments.resume,
    )


def _standing(job: Job, other: Path | None, suffix: str) -> Literal["absent", "cut", "done", "twice"]:
    """What is there of a job's output: nothing that may not be replaced, a part, all; or the input came before.

    Args:
        job (`Job`): as planned, so far without a problem.
        other (`Path`, *optional*): an earlier input with this output.
        suffix (`str`): of what the command writes.

    Raises:
        `OneDCError`, `OSError`: the job cannot be done.
    """
    source, target = job.source, job.target
    if problem := missing(source):
        raise OneDCError(problem)
    if os.path.islink(target) and not os.path.exists(target) and job.existing != "replace":
        raise OneDCError(f"{target} is a link to nothing; remove it, or name another file with -o")
    if target.exists() and source != STDIN and target.samefile(source):
        raise OneDCError(f"would be written over itself; name another file with -o (it is {target})")
    if other is not None:
        if not missing(other) and source.samefile(other):
            return "twice"
        raise OneDCError(f"{target} is already the output of {other}; do one of them alone, with -o")
    if target.is_dir():
        raise OneDCError(f"{target} is a folder; name a file with -o")
    if not target.exists() or job.existing == "replace":
        return "absent"
    if job.existing == "leave":
        return "done" if _is_finished(source, target, suffix) else "cut"
    raise OneDCError(f"{target} exists; --force replaces it, --resume leaves it and does the others")


def _place(path: Path) -> tuple[str, str]:
    """The same for two spellings of one file, also where a file system does not tell `a.odc` from `A.odc`."""
    return os.path.realpath(path.parent), unicodedata.normalize("NFC", path.name).casefold()


def _is_finished(source: Path, target: Path, suffix: str) -> bool:
    """Whether an output that exists is whole; an `.odc` file also has to be of a picture as large as its source.

    Args:
        source (`Path`): what the output was made of.
        target (`Path`): the output.
        suffix (`str`): of what the command writes, also where `-o` names a file otherwise.

    Raises:
        `OneDCError`: it is not what this source would give, and nothing that was cut either.
    """
    if not target.is_file():
        return True  # a device or a pipe: there is nothing to read in it
    if suffix != ".odc":
        return _is_whole_picture(target)
    from ..coding import inspect

    data = target.read_bytes()
    if not data.strip(b"\0"):  # after a power cut, some file systems have the length, and zeros
        return False
    try:
        facts = inspect(data)
    except (NotOneDC, UnsupportedVersion) as error:
        raise OneDCError(f"{target} exists and is left as it is: {error} Name another file with -o") from error
    except BitstreamError:
        return False
    if not facts["valid"]:
        return False
    size, expected = (facts["width"], facts["height"]), _picture_size(source)
    if expected is not None and sorted(size) != sorted(expected):  # the sides may be exchanged: EXIF turns pictures
        raise OneDCError(
            f"{target} exists, but is of a picture of {size[0]}x{size[1]} pixels, and this one has "
            f"{expected[0]}x{expected[1]}; --force replaces it, -o names another file"
        )
    return True


def _is_whole_picture(path: Path) -> bool:
    """Whether all pixels of a picture are there, which only unpacking them tells."""
    from ..opening import guarded, load_pixels, open_plain

    with path.open("rb") as file:
        try:
            guarded(lambda: load_pixels(open_plain(file, str(path))), str(path))
        except PictureError:
            return False
    return True


def _picture_size(path: Path) -> tuple[int, int] | None:
    """Width and height as stored, from the beginning of a picture's file; `None` if it does not say."""
    from ..opening import guarded, open_plain

    try:
        with path.open("rb") as file:
            return guarded(lambda: open_plain(file, str(path)), str(path)).size
    except (OSError, PictureError):
        return None  # whoever reads it says what is wrong with it


def refuse_output_among(inputs: Sequence[str], output: str | None, *, is_output: Callable[[Path], bool]) -> None:
    """Refuses `INPUT OUTPUT`, as `cp` has it, before anything is written beside the input.

    Args:
        inputs (`Sequence[str]`): as they were given.
        output (`str`, *optional*): what `-o` says.
        is_output (`Callable`): whether a file has the suffix of what the command writes.

    Raises:
        `UsageError`: the last of several inputs is not there, and looks like an output.
    """
    last = Path(inputs[-1])
    if output is None and len(inputs) > 1 and not os.path.exists(last) and is_output(last):
        raise UsageError(f"{last}: no such file; if it is meant as the output, write -o {last}")


def run_all(jobs: Sequence[Job], work: Callable[[Job], str], verb: str) -> int:
    """Do every job; print what `work` returns, report what fails on stderr and go on.

    Returns:
        `int`: how many failed.
    """
    failed = 0
    for job in _progress(jobs, verb):
        aside = _takes_stdout(job.target)
        try:
            if job.problem:
                raise OneDCError(job.problem)
            if job.existing == "leave" and job.target.exists():
                line = f"{job.target}: there already"  # another process is at the same folder
            else:
                with _warnings_of(job):
                    line = work(job)
        except Exception as error:  # the other files are still to be done, whatever this is
            failed += 1
            complain(_message(error), job.source)
        else:
            report(line, aside)
    return failed


def _takes_stdout(target: Path) -> bool:
    """Whether a line on stdout could get into a job's output: that is stdout itself, or any device or pipe."""
    if target == STDOUT:
        return True
    try:
        there = target.stat()
        return not stat.S_ISREG(there.st_mode) or os.path.samestat(there, os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError, AttributeError):  # no output yet; a stdout that is no file, or none at all
        return False


@contextmanager
def _warnings_of(job: Job) -> Iterator[None]:
    """Says of every `UserWarning`, which is meant for the person at the keyboard, which file it is about."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)  # the same words about another file are news
            yield
    finally:
        said = set()
        for warning in caught:
            message = str(warning.message)
            if not issubclass(warning.category, UserWarning):
                warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
            elif message not in said:
                named = message.startswith((str(job.source), str(job.target)))
                complain(f"warning: {message if named else f'{job.source}: {message}'}")
                said.add(message)


def _message(error: Exception) -> str:
    if isinstance(error, OneDCError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}"
    return (
        f"{type(error).__name__}: {error} (if this looks like a bug, please report it with the output of `onedc env`)"
    )


def _progress(jobs: Sequence[Job], verb: str) -> Iterable[Job]:
    if len(jobs) < 2:
        return jobs
    from tqdm import tqdm

    return tqdm(jobs, desc=verb, unit="file", disable=None)  # None: only where stderr is a terminal


def say(line: str) -> None:
    """Print to stdout without tearing a progress bar."""
    _write(line, sys.stdout)


def report(line: str, aside: bool = False) -> None:
    """Print what was done; that nobody reads it, or that the disk there is full, does not undo it.

    Args:
        line (`str`): what to print.
        aside (`bool`): to stderr, and not to stdout.
    """
    if aside:
        with suppress(OSError):
            _write(line, sys.stderr)
        return
    try:
        say(line)
    except OSError as error:
        leave_stdout()
        if not isinstance(error, BrokenPipeError):  # `onedc compress ... | head` wants no more lines
            complain(f"stdout: {error.strerror or error}; no more is reported there, the work goes on")


def leave_stdout() -> None:
    """Let everything that is still printed to stdout, or waits to be, go nowhere."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def complain(message: str, path: Path | None = None) -> None:
    """Print a problem to stderr, beginning with the file it is about."""
    where = "" if path is None or message.startswith(str(path)) else f"{path}: "
    with suppress(OSError):  # there is nobody left to tell
        _write(f"onedc: {where}{message}", sys.stderr)


# Names may hold what steers a terminal: colours, or a line that is written over.
_SHOWN = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\n\t"}


def _write(line: str, stream: TextIO | None) -> None:
    if stream is None:  # closed by a shell: `>&-`
        return
    # A name that the terminal cannot show is no reason to fail.
    encoding = stream.encoding or "utf-8"
    line = line.encode(encoding, "backslashreplace").decode(encoding).translate(_SHOWN)
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line, file=stream)
    else:
        print(line, file=stream)
    stream.flush()  # what cannot be written is found out here, and not when the program ends


def read(path: Path) -> bytes:
    """Read a whole file, or standard input; an `OneDCError` says that it is missing or a folder."""
    if path == STDIN:
        return read_stdin()
    if path.is_dir():
        raise OneDCError(f"{path}: this is a folder")
    if not path.exists():
        raise OneDCError(f"{path}: no such file")
    return path.read_bytes()


def write_output(job: Job, data: bytes) -> bool:
    """Write a job's file; `False` where another process was first and theirs may stay.

    Raises:
        `OneDCError`: it cannot be written; or another process wrote it since the job was planned, and theirs is kept.
    """
    try:
        if job.target == STDOUT:
            write_stdout(data)
        else:
            write_atomically(job.target, data, replace=job.existing == "replace")
    except FileExistsError as error:
        if job.existing == "refuse":
            raise OneDCError(f"{job.target} was written by another process meanwhile; it is left as it is") from error
        return False
    except (OSError, RuntimeError) as error:  # the second: a link to itself
        raise OneDCError(f"{job.target} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    return True
