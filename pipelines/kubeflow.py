"""Kubeflow Pipelines by its own client: who asks, and its failures in one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.errors import InvalidInput, LongtailError, Unavailable

if TYPE_CHECKING:
    from kfp.client import Client

TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
TOKEN_IN_POD = Path("/var/run/secrets/kubeflow/pipelines/token")


class Refused(LongtailError):
    """Kubeflow Pipelines answered with an error that is not the caller's."""

    exit_code = 1


def connect(host: str = "", namespace: str = "", token_file: str = "") -> Client:
    """The client of the server at `host`, else of KF_PIPELINES_ENDPOINT, else of the cluster that this runs in.

    The token is read from its file before every request, so that one which is renewed there is taken up: `token_file`,
    else KF_PIPELINES_SA_TOKEN_PATH, else where pods find theirs. Without any, requests carry none.

    Raises:
        InvalidInput: the token's file cannot be read.
        Unavailable: nothing answers.
    """
    warnings.simplefilter("ignore", FutureWarning)
    from kfp.client import Client
    from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

    host = host or os.environ.get("KF_PIPELINES_ENDPOINT", "")
    if host and "://" not in host:
        raise InvalidInput(f"{host}: begin the address with http:// or https://")
    token = Path(token_file or os.environ.get(TOKEN_VARIABLE, "") or TOKEN_IN_POD)
    credentials = None
    if token.is_file():
        credentials = ServiceAccountTokenVolumeCredentials(str(token))
    elif token != TOKEN_IN_POD:
        raise InvalidInput(f"{token} does not exist: name the file with the token")
    where: dict[str, Any] = {"host": host, "credentials": credentials}
    if host and namespace:
        where["namespace"] = namespace  # with a host it is only the namespace of what is asked for
    with quiet(), answered(host):
        return Client(**where)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep to ourselves what the client prints: pages of a web interface that may not be there."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def answered(host: str) -> Iterator[None]:
    """Turn the client's errors into one line.

    Raises:
        InvalidInput: the server refuses what was asked for.
        Refused: it failed.
        Unavailable: nothing answers there.
    """
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        said = f"Kubeflow Pipelines answered {error.status}: {_told(error)}"
        if error.status in (401, 403):
            raise InvalidInput(f"{said} (name a --token-file, or another --namespace)") from None
        if error.status in (502, 503, 504):
            raise Unavailable(said) from None
        raise (InvalidInput if 400 <= (error.status or 0) < 500 else Refused)(said) from None
    except (HTTPError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        where = host or "the address that kfp found"
        raise Unavailable(f"nothing answers at {where} ({reason}): name --host, or forward its port") from None


def _told(error: Any) -> str:
    try:
        body = json.loads(error.body)
        text = body.get("message") or body.get("error") or error.reason
    except (TypeError, ValueError, AttributeError):
        text = error.body or error.reason
    return " ".join(str(text).split())[:300]
