"""Settings that every test runs under: no telemetry, no model hub, a Prefect home of its own."""

import os
import secrets
import tempfile

import pytest

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin starve one another on a busy machine
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # each test process has its share of the cores
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-home-")


@pytest.fixture(scope="session")
def postgres():
    """Makes a new, empty schema on the session's own server and returns its URL."""
    import sqlalchemy as sa

    from cascade.database import connect
    from lab.postgres import PostgresMissingError, temporary_postgres

    try:
        with temporary_postgres(durable=False) as url:
            server = connect(url)

            def schema() -> str:
                name = f"t{secrets.token_hex(6)}"
                with server.begin() as connection:
                    connection.execute(sa.text(f"CREATE SCHEMA {name}"))
                return f"{url}&options=-csearch_path%3D{name}"

            yield schema
            server.dispose()
    except PostgresMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """URL of a real Prefect server with a database of its own; a test names it with prefect_world.at_server."""
    import socket

    from flows.deployments import local_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect-server")))
        server = local_server(port)
        url = server.__enter__()
    yield url
    server.__exit__(None, None, None)
