"""The few S3 calls that pods need, over http.client. What may pass is tried again until patience runs out.

Each request has a connection of its own: versitygw closes them anyway, and nothing is left in a bad state.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import io
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit
from xml.etree import ElementTree

from . import sign
from .ending import Code, Deadline, Failed, say

PATIENCE_SECONDS = 120.0  # for one request, with all its tries
SILENCE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 10.0
BREAKS = 20  # of one download
BLOCK = 1 << 17

PASSING = frozenset({429, 500, 502, 503, 504})
PASSING_REASONS = frozenset(
    {"RequestTimeout", "SlowDown", "InternalError", "OperationAborted", "XAmzContentSHA256Mismatch"}
)
META = "x-amz-meta-"

_REASONS = {
    "InvalidAccessKeyId": "it does not know the access key",
    "XAdminUserNotFound": "it does not know the access key",  # versitygw, with 404
    "SignatureDoesNotMatch": "the secret key is wrong",
    "AccessDenied": "these credentials have no right to do that",
    "403": "these credentials have no right to do that",
    "RequestTimeTooSkewed": "its clock and this machine's differ too much",
    "ExpiredToken": "the credentials have expired",
    "NoSuchBucket": "it has no such bucket",
    "NoSuchKey": "it has no such object",
    "404": "it has no such object",
}
T = TypeVar("T")


class Place(NamedTuple):
    """A bucket and a key, or the start of keys."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @classmethod
    def of(cls, url: str) -> Place:
        """Raises Failed for anything but `s3://bucket/key`."""
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise Failed(f"{url!r} is not an address like s3://bucket/key.", Code.USAGE)
        return cls(parts.netloc, parts.path.lstrip("/"))


class Asked(NamedTuple):
    """A request."""

    method: str
    place: Place
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Answer(NamedTuple):
    """What the store answered; `headers` by names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def metadata(self) -> dict[str, str]:
        return {name[len(META) :]: value for name, value in self.headers.items() if name.startswith(META)}

    @property
    def size(self) -> int:
        return int(self.headers.get("content-length", 0))

    def all(self, name: str) -> list[str]:
        """The texts of the elements of this name."""
        try:
            root = ElementTree.fromstring(self.body)  # noqa: S314 - of a store we have credentials for
        except ElementTree.ParseError:
            return []
        return [found.text or "" for found in root.iter() if found.tag.rpartition("}")[2] == name]

    def first(self, name: str) -> str:
        return next(iter(self.all(name)), "")

    @property
    def reason(self) -> str:
        """S3's name for what is wrong."""
        return self.first("Code") or str(self.status)


class Opened(NamedTuple):
    """A body still to be read, from a connection to be closed."""

    head: Answer
    body: http.client.HTTPResponse
    connection: http.client.HTTPConnection


class Passing(Exception):
    """Trouble that may pass."""


class Store:
    """A client for one command. Every method raises Failed, and stays within the deadline."""

    def __init__(self, environ: Mapping[str, str], deadline: Deadline) -> None:
        self.region = environ.get("AWS_REGION") or "us-east-1"
        self.deadline = deadline
        self.endpoint = environ.get("AWS_ENDPOINT_URL") or f"https://s3.{self.region}.amazonaws.com"
        parts = urlsplit(self.endpoint)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise Failed("AWS_ENDPOINT_URL is not an address like https://host:port.", Code.USAGE)
        self._secure, self._host, self._base = parts.scheme == "https", parts.netloc, parts.path.rstrip("/")
        self._credentials = _credentials(environ)

    def within(self, seconds: float) -> Store:
        """The same with another deadline."""
        other = copy.copy(self)
        other.deadline = Deadline(seconds)
        return other

    def ask(self, asked: Asked) -> Answer:
        def once() -> Answer:
            head, got, connection = self._exchange(asked)
            with contextlib.closing(connection):
                return head._replace(body=got.read())

        return self._insist(once)

    def open(self, asked: Asked) -> Opened:
        return self._insist(lambda: self._exchange(asked))

    def _insist(self, once: Callable[[], T]) -> T:
        end = time.monotonic() + min(PATIENCE_SECONDS, self.deadline.left())
        for pause in _pauses():
            try:
                with _telling_apart(self.endpoint):
                    return once()
            except Passing as trouble:
                if time.monotonic() + pause > end:
                    message = f"The object store at {self.endpoint} cannot be used: {trouble}."
                    raise Failed(message, Code.UNREACHABLE) from None
                if pause > 0.5:
                    say(f"object store at {self.endpoint}: {trouble}; trying again")
            time.sleep(pause)
        raise AssertionError("there is always another pause")

    def _exchange(self, asked: Asked) -> Opened:
        connection = self._connection()
        try:
            got = self._send(connection, asked)
            found = {name.lower(): value for name, value in got.getheaders()}
            head = Answer(got.status, found, b"" if got.status < 300 else got.read())
            if head.status >= 300:
                self._refuse(head, asked)
            return Opened(head, got, connection)
        except BaseException:
            connection.close()
            raise

    def _connection(self) -> http.client.HTTPConnection:
        timeout = min(SILENCE_SECONDS, self.deadline.left())
        if self._secure:
            trust = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, timeout=timeout, context=trust, blocksize=BLOCK)
        return http.client.HTTPConnection(self._host, timeout=timeout, blocksize=BLOCK)

    def _send(self, connection: http.client.HTTPConnection, asked: Asked) -> http.client.HTTPResponse:
        method, place, query, headers, body = asked
        path = f"{self._base}/{place.bucket}" + (f"/{place.key}" if place.key else "")
        whole = sign.signed(
            method,
            path,
            query,
            {**headers, "Host": self._host},
            sign.sha256(body),
            credentials=self._credentials,
            region=self.region,
            now=datetime.now(timezone.utc),
        )
        target = sign.encoded_path(path) + (f"?{sign.encoded_query(query)}" if query else "")
        if method in {"PUT", "POST"}:
            whole["Content-Length"] = str(len(body))
        connection.connect()
        # A store that refuses need not read what it refuses: its answer is there, though sending fails.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, io.BytesIO(body) if body else None, whole)
        return connection.getresponse()

    def _refuse(self, answer: Answer, asked: Asked) -> NoReturn:
        reason = answer.reason
        words = _REASONS.get(reason) or f"{reason}: {answer.first('Message')}".rstrip(": .")
        code = Code.MISSING if reason.startswith(("NoSuch", "404")) else Code.REFUSED
        if "Full" in reason or "Space" in reason or answer.status == 507:
            words, code = "its disk is full", Code.NO_SPACE
        elif answer.status in PASSING or reason in PASSING_REASONS:
            raise Passing(f"it answers {answer.status} ({reason})")
        elif answer.status < 400:
            other = answer.headers.get("x-amz-bucket-region", "another")
            words = f"the bucket's region is {other}, not {self.region}"
        message = f"The object store at {self.endpoint} refused {asked.method} {asked.place}: {words}."
        raise Failed(message, code, answer.status, reason)

    def keys(self, under: Place) -> Iterator[str]:
        """Every key that starts with that of `under`, in order."""
        query = {"list-type": "2", "prefix": under.key}
        while True:
            page = self.ask(Asked("GET", Place(under.bucket, ""), query))
            yield from page.all("Key")
            if page.first("IsTruncated") != "true":
                return
            query["continuation-token"] = page.first("NextContinuationToken")


class Download:
    """The content of an object, read once from start to end; goes on where a connection broke."""

    def __init__(self, store: Store, place: Place) -> None:
        self._store, self._place = store, place
        self._breaks = self._offset = 0
        self._opened = store.open(Asked("GET", place))
        self.head = self._opened.head

    def read(self, size: int) -> bytes:
        """Raises Failed and never OSError: to whoever unpacks, an OSError is the disk's."""
        while self._offset < self.head.size:
            self._store.deadline.left()
            try:
                if content := self._opened.body.read1(size):
                    self._offset += len(content)
                    return content
                self._go_on("it was cut off")
            except (OSError, http.client.HTTPException) as error:
                self._go_on(_words(error))
        return b""

    def _go_on(self, problem: str) -> None:
        self._opened.connection.close()
        self._breaks += 1
        if self._breaks > BREAKS:
            message = f"The download of {self._place} broke {self._breaks} times: {problem}."
            raise Failed(message, Code.UNREACHABLE)
        say(f"download broke after {self._offset} bytes: {problem}; going on from there")
        time.sleep(min(0.05 * self._breaks, self._store.deadline.left()))
        rest = {"Range": f"bytes={self._offset}-", "If-Match": self.head.headers.get("etag", "*")}
        try:
            self._opened = self._store.open(Asked("GET", self._place, headers=rest))
        except Failed as error:
            if error.status != 412:
                raise
            raise Failed(f"{self._place} was replaced while it was read.", Code.UNREACHABLE) from None
        if self._opened.head.status != 206:
            raise Failed(f"The object store cannot go on reading {self._place}.", Code.UNREACHABLE)

    def close(self) -> None:
        self._opened.connection.close()


@contextlib.contextmanager
def _telling_apart(endpoint: str) -> Iterator[None]:
    """Raises Passing for trouble of the network, Failed where the certificate is not trusted."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        message = f"The object store at {endpoint} shows a certificate that is not trusted here"
        advice = "targets.kubernetes.ca-bundle in matcha.yaml names whom to trust"
        raise Failed(f"{message}: {error.verify_message}. {advice}.", Code.REFUSED) from None
    except (OSError, http.client.HTTPException) as error:
        raise Passing(_words(error)) from None


def _credentials(environ: Mapping[str, str]) -> sign.Credentials:
    access, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not access or not secret:
        raise Failed("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set.", Code.USAGE)
    return sign.Credentials(access, secret, environ.get("AWS_SESSION_TOKEN", ""))


def _pauses() -> Iterator[float]:
    pause = 0.25
    while True:
        yield pause * (0.5 + random.random() / 2)  # noqa: S311 - so that pods do not come back all at once
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return f"the connection broke ({type(error).__name__})"
