"""The paths of sockets, configuration and state, from the environment; platformdirs is used last.

systemd tells a service its folders (RUNTIME_DIRECTORY, STATE_DIRECTORY, CONFIGURATION_DIRECTORY); a desktop session has
XDG_*. A pipe of exim or a cron job has neither: then a client looks at the likely places one by one. Importing platformdirs
costs three times the client's whole start, so it is imported only if nothing else decides.
"""

import os

from cms_oauth.expand import Unusable, expanded, home

TYPE_CHECKING = False  # `typing` itself costs the client twice its start
if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "cms"
_SOCKET = "cms.sock"
_CONTROL = "control.sock"
_CONFIG = "cms.cfg"

# RuntimeDirectory=cms of a system service.
_SYSTEM_RUNTIME = "/run/cms"
# StateDirectory=cms and ConfigurationDirectory=cms of it.
_SYSTEM_STATE = "/var/lib/cms"
_SYSTEM_CONFIG = "/etc/cms"

# logind makes a folder here for each user who has a session, or lingers.
_USERS_RUNTIME = "/run/user"


def runtime_folder() -> str:
    """Return the folder for the daemon's sockets. Raises OSError if another user owns the last possible one."""
    return _from_systemd("RUNTIME_DIRECTORY") or _from_xdg("XDG_RUNTIME_DIR") or _of_logind() or _last_runtime()


def state_folder() -> str:
    """Return the folder for files that must survive a restart. Raises Unusable if there is none."""
    told = _from_systemd("STATE_DIRECTORY") or _from_xdg("XDG_STATE_HOME")
    return told or _of_service() or _at_home(".local/state", "XDG_STATE_HOME")


def config_file() -> str:
    """Return the path of the configuration file that is used by default. Raises Unusable if there is none.

    This is the user's own file, or the system service's if the user has none.
    """
    system = system_config_file()
    there = "CONFIGURATION_DIRECTORY" not in os.environ and os.path.exists(system)  # noqa: PTH110 - as in _of_logind
    try:
        own = own_config_file()
    except Unusable:
        if there:
            return system
        raise
    return system if there and not os.path.exists(own) else own  # noqa: PTH110 - as above


def is_usual_config(path: str) -> bool:
    """True if cms finds the configuration at this path without being told."""
    try:
        return path == config_file()
    except Unusable:
        return False


def system_config_file() -> str:
    """Return the path of the system service's configuration file."""
    return f"{_SYSTEM_CONFIG}/{_CONFIG}"


def is_service_config(path: str) -> bool:
    """True if this is the system service's configuration file."""
    return os.path.realpath(path) == os.path.realpath(system_config_file())


def own_config_file() -> str:
    """Return the path of this user's configuration file, whether or not it exists. Raises Unusable."""
    told = _from_systemd("CONFIGURATION_DIRECTORY") or _from_xdg("XDG_CONFIG_HOME")
    return f"{told or _at_home('.config', 'XDG_CONFIG_HOME', '; or name the file with -c')}/{_CONFIG}"


def control_socket() -> str:
    """Return where this process, as a daemon, has its control socket."""
    return f"{runtime_folder()}/{_CONTROL}"


def control_candidates() -> tuple[str, ...]:
    """Return where a running daemon's control socket may be, the likeliest first."""
    own = _from_systemd("RUNTIME_DIRECTORY")
    return tuple(dict.fromkeys(f"{folder}/{_CONTROL}" for folder in (own, *_client_folders()) if folder))


def default_socket() -> str:
    """Return where this process, as a daemon, has its token socket unless the configuration says otherwise."""
    return f"{runtime_folder()}/{_SOCKET}"


def socket_candidates() -> "Iterator[str]":
    """Yield where a token socket may be, the likeliest first; only $CMS_SOCK if that is set."""
    told = _told("CMS_SOCK")
    if told:
        yield told
    else:
        for folder in _client_folders():
            yield f"{folder}/{_SOCKET}"


def find_socket() -> str:
    """Return the first token socket that exists, else the likeliest place for one."""
    likeliest = ""
    for path in socket_candidates():
        if os.path.lexists(path):
            return path
        likeliest = likeliest or path
    return likeliest


def _client_folders() -> "Iterator[str]":
    """Yield where a daemon may have its sockets.

    RUNTIME_DIRECTORY is not used: in a client it names the folder of the service that runs the client.
    """
    try:
        session = _from_xdg("XDG_RUNTIME_DIR")
    except Unusable:
        # No daemon can have used it, so the daemon is elsewhere.
        session = ""
    users = _of_logind()
    if session:
        yield session
    if users and users != session:
        yield users
    yield _SYSTEM_RUNTIME
    if not session and not users:
        try:
            yield _last_runtime()
        except (OSError, ImportError):
            # Another user made the folder that would be ours, so nothing in it can be trusted; or there is no folder for
            # temporary files. Or platformdirs is not installed: the client works with only the standard library.
            return


def _from_systemd(variable: str) -> str:
    """Return the first folder of a colon-separated list: a unit may have several."""
    folder = _told(variable).partition(":")[0]
    if folder and not folder.startswith("/"):
        raise Unusable(f"{variable} is not an absolute path", "systemd sets it; outside of a service, unset it")
    return folder


def _from_xdg(variable: str) -> str:
    """Return our folder below an XDG base folder; a relative path is ignored (XDG Base Directory, 0.8)."""
    base = _told(variable)
    return f"{base.rstrip('/')}/{_NAME}" if base.startswith("/") else ""


def _told(variable: str) -> str:
    """Return the path in an environment variable, "" for none. Raises Unusable."""
    return named(os.environ.get(variable, ""), variable)


def named(path: str, where: str) -> str:
    """Return `expanded(path)`, for a path from `where`: an option or a variable. Raises Unusable."""
    try:
        return expanded(path)
    except Unusable as unusable:
        raise Unusable(f"{where}: {unusable.message}", unusable.hint) from None


def _of_logind() -> str:
    base = f"{_USERS_RUNTIME}/{os.geteuid()}"
    return f"{base}/{_NAME}" if os.path.isdir(base) else ""  # noqa: PTH112 - pathlib doubles the client's start


def _of_service() -> str:
    """Return the system service's state folder if we are its user, as in `sudo -u cms cms login`."""
    return _SYSTEM_STATE if service_uid() == os.geteuid() else ""


def service_uid() -> int | None:
    """Return the uid of the system service, which owns its state folder; None if there is no such folder."""
    try:
        return os.stat(_SYSTEM_STATE).st_uid  # noqa: PTH116 - as in _of_logind
    except OSError:
        return None


def _last_runtime() -> str:
    return _platform("user_runtime_dir")


def _at_home(base: str, variable: str, instead: str = "") -> str:
    """Return our folder below an XDG base folder's usual place. Raises Unusable: `variable` or `instead` would help.

    Not platformdirs': before its version 4.11 that takes a relative path from the variable.
    """
    try:
        return f"{home().rstrip('/')}/{base}/{_NAME}"
    except Unusable as unusable:
        raise Unusable(unusable.message, f"set HOME, or {variable}, to a folder of this user{instead}") from None


def _platform(folder: str) -> str:
    # Imported here because it costs more than everything else that the client does: see the top of this file.
    import warnings  # noqa: PLC0415 - see above

    import platformdirs  # noqa: PLC0415 - see above

    with warnings.catch_warnings():
        # It warns that XDG_RUNTIME_DIR is not set. We know: that is why it is asked.
        warnings.simplefilter("ignore")
        found: str = getattr(platformdirs.PlatformDirs(_NAME, appauthor=False), folder)
    return found
