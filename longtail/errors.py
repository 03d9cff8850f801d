"""One base for every mistake a user can make, so that edges turn it into one line."""


class LongtailError(Exception):
    """A problem the user can act on: the message says what is wrong and what to do.

    The command line prints the message and exits with `exit_code`; servers answer `http_status`.
    """

    exit_code = 2
    http_status = 500


class InvalidInput(LongtailError):
    """The caller's data, request or configuration is wrong."""

    http_status = 400


class InvalidBundle(LongtailError):
    """A bundle is incomplete, altered, or its parts do not belong together."""


class Unavailable(LongtailError):
    """A part that the work depends on does not answer."""

    http_status = 503
