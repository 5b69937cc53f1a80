"""How a list of tokens reaches every replica of the model server, and which are said not to have it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from matcha.access import Output, public_url
from matcha.component import Token, Tokens
from matcha.components.mlserver import MLServer
from matcha.components.mlserver.component import Options
from matcha.components.mlserver.inside.matcha_serving.tokens import listed
from matcha.errors import NotProvisioned
from matcha.service import OUTSIDE
from support.access import FolderAccess
from support.listening import Handler, Listening

TOKENS = Tokens(
    serial=7, tokens=(Token(id="a" * 12, name="shop", digest="0" * 64, models=("credit",), created=1.0),)
)


class Replica(Listening):
    """Takes what it is told, or refuses with `status`."""

    def __init__(self, status: int = 200) -> None:
        self.told: list[tuple[str, str, bytes]] = []
        replica = self

        class Told(Handler):
            def do_PUT(self) -> None:
                replica.told.append((self.path, self.headers["Authorization"], self.body()))
                self.answer(status)

        super().__init__(Told)


class Replicated(FolderAccess):
    """`matcha.access.ReplicatedAccess`."""

    found: Mapping[str, str] | None = None

    @contextlib.contextmanager
    def replicas(self, role: str) -> Iterator[Mapping[str, str]]:
        if self.found is None:
            raise NotProvisioned(f"The {role} has no service.")
        yield self.found


@pytest.fixture
def two() -> Iterator[tuple[Replica, Replica]]:
    made = Replica(), Replica(503)
    yield made
    for each in made:
        each.close()


@pytest.fixture
def access(tmp_path: Path) -> Replicated:
    made = Replicated(tmp_path)
    made.keep_secret("serving-token", "of the stack")
    return made


def component() -> MLServer:
    return MLServer(Options())


def test_every_replica_is_told_and_those_that_did_not_take_it_are_named(
    access: Replicated, two: tuple[Replica, Replica]
) -> None:
    well, ill = two
    gone = Replica()
    gone.close()
    access.found = {"well": well.url, "ill": ill.url, "gone": gone.url}
    assert component().take_tokens(access, TOKENS) == ("ill", "gone")
    [(path, authorization, body)] = well.told
    assert (path, authorization) == ("/matcha/tokens", "Bearer of the stack")
    assert msgspec.json.decode(body, type=Tokens) == TOKENS


def test_the_server_reads_what_matcha_writes() -> None:
    found = listed(msgspec.json.encode(TOKENS))
    assert found.serial == 7
    assert found.tokens["a" * 12].may("credit") and not found.tokens["a" * 12].may("movie")
    assert listed(msgspec.json.encode(Tokens())).tokens == {}


def test_where_nobody_can_be_asked_the_role_is_named(access: Replicated) -> None:
    assert component().take_tokens(access, TOKENS) == ("model-deployer",)
    access.found = {}
    assert component().take_tokens(access, TOKENS) == ()


def test_a_server_that_lets_no_application_in_needs_no_tokens(access: Replicated) -> None:
    closed = Replica(404)
    access.found = {"closed": closed.url}
    assert component().take_tokens(access, TOKENS) == ()
    closed.close()


def test_what_keeps_servers_from_being_told_is_no_error(tmp_path: Path) -> None:
    """The token is kept by then, and was shown to nobody yet."""
    nothing = Replicated(tmp_path)  # without the secret that servers ask for
    nothing.found = {"well": "http://127.0.0.1:9"}
    assert component().take_tokens(nothing, TOKENS) == ("model-deployer",)


def test_a_target_without_replicas_has_one(tmp_path: Path, two: tuple[Replica, Replica]) -> None:
    access = FolderAccess(tmp_path, {"model-deployer": two[0].url})
    access.keep_secret("serving-token", "t")
    assert component().take_tokens(access, TOKENS) == ()
    assert len(two[0].told) == 1


def test_the_main_server_alone_is_for_applications_outside() -> None:
    [main] = component().services(())
    assert main.outside is not None
    assert main.outside not in main.ports
    named = [text for text in (*main.command, *main.env.values()) if text.startswith("{outside:")]
    assert sorted(named) == sorted(f"{{outside:{part}}}" for part in OUTSIDE)


def test_where_it_is_public_is_shown_only_where_it_is(tmp_path: Path) -> None:
    class Exposed(FolderAccess):
        def public_url(self, role: str) -> str:
            return "https://models.example.com" if role == "model-deployer" else ""

    urls = {"model-deployer": "http://127.0.0.1:1"}
    plain, exposed = FolderAccess(tmp_path / "a", urls), Exposed(tmp_path / "b", urls)
    assert public_url(plain, "model-deployer") == ""
    assert "public-url" not in component().outputs(plain)
    assert component().outputs(exposed)["public-url"] == Output("https://models.example.com")
