"""Settings. Everything that differs between installations comes from the environment; `manage.py up` fills in the rest.

SLIPWAY_KEYS_FILE      JSON with a list of keys, newest first, for sessions, links, identity, webhooks and encryption
SECRET_KEY             instead of that file: one key for all of it. SECRET_KEY_FALLBACKS has those from before, and
                       SLIPWAY_LINK_KEYS, SLIPWAY_IDENTITY_KEYS, SLIPWAY_WEBHOOK_KEYS, SLIPWAY_ENCRYPTION_KEYS have keys of their own
DATABASE_URL           PostgreSQL 15 or newer
REDIS_URL              Valkey or Redis 7 or newer, with the policy noeviction
SLIPWAY_SCRATCH_REDIS_URL  another one for live log tails and the like, with the policy allkeys-lru (default: REDIS_URL)
SLIPWAY_PUBLIC_URL     where browsers find the console; https switches the secure cookies and HSTS on
SLIPWAY_GATEWAY_URL    where clients find the gateway
SLIPWAY_DEFAULT_ACCESS        who may call a new deployment where nobody says: public or key_only
SLIPWAY_SECOND_FACTOR         who must have one beside the password: optional (nobody), operators or everyone
SLIPWAY_TRUSTED_PROXIES       networks (10.0.0.0/8,…) of proxies whose X-Forwarded-For, -Proto and -Host count; none by default
SLIPWAY_WEBHOOK_NETWORKS      networks inside (10.0.0.0/8,…) that webhooks may call; none by default
SLIPWAY_ASYNC_QUEUE_REQUESTS  how many asynchronous requests may wait for one deployment
SLIPWAY_ASYNC_QUEUE_BYTES     how large their bodies may be together
SLIPWAY_LOG_INSTANCE_DAY_BYTES  how much of one instance's log of a day is kept, compressed; the oldest goes first
SLIPWAY_LOG_BYTES             how much of all logs together
SLIPWAY_GATEWAY_BODY_BYTES    how many bytes of request bodies one gateway holds
SLIPWAY_HOME           folder for everything that Slipway writes (default: .slipway in the project)
"""

from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from dashboard.home import Home
from dashboard.own_keys import own_keys

BASE_DIR = Path(__file__).resolve().parents[1]
HOME = Home()
env = environ.Env()


def _from_environment_or_home(name: str, home_value: str) -> str:
    """An empty variable counts as absent: `DATABASE_URL= make run` means the embedded server."""
    return env.str(name, default="") or getattr(HOME, home_value)


INSTALLATION_KEYS = own_keys(env, HOME)
# As they are at the start: the web process goes on with what the file has later (dashboard/session_keys.py).
SECRET_KEY, *SECRET_KEY_FALLBACKS = INSTALLATION_KEYS.sessions
DATABASE_URL = _from_environment_or_home("DATABASE_URL", "database_url")
REDIS_URL = _from_environment_or_home("REDIS_URL", "redis_url")
SCRATCH_REDIS_URL = (
    env.str("SLIPWAY_SCRATCH_REDIS_URL", default="") or env.str("REDIS_URL", default="") or HOME.scratch_redis_url
)
PUBLIC_URL = env.str("SLIPWAY_PUBLIC_URL", default="http://127.0.0.1:8000").rstrip("/")
GATEWAY_URL = env.str("SLIPWAY_GATEWAY_URL", default="http://127.0.0.1:8080").rstrip("/")
TRUSTED_PROXIES = [ip_network(text) for text in env.list("SLIPWAY_TRUSTED_PROXIES", default=[])]
WEBHOOK_NETWORKS = [ip_network(text) for text in env.list("SLIPWAY_WEBHOOK_NETWORKS", default=[])]
ASYNC_QUEUE_REQUESTS = env.int("SLIPWAY_ASYNC_QUEUE_REQUESTS", default=1_000_000)
ASYNC_QUEUE_BYTES = env.int("SLIPWAY_ASYNC_QUEUE_BYTES", default=10 << 30)
LOG_INSTANCE_DAY_BYTES = env.int("SLIPWAY_LOG_INSTANCE_DAY_BYTES", default=256 << 20)
LOG_BYTES = env.int("SLIPWAY_LOG_BYTES", default=20 << 30)
GATEWAY_BODY_BYTES = env.int("SLIPWAY_GATEWAY_BODY_BYTES", default=256 << 20)
# Who may call a deployment where nobody says: everybody on a laptop, else only who has a key.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_IS_LAPTOP = (
    all(urlsplit(url).scheme == "http" and urlsplit(url).hostname in LOOPBACK for url in (PUBLIC_URL, GATEWAY_URL))
    and env.str("SLIPWAY_HOST", default="127.0.0.1") in LOOPBACK
)
DEFAULT_ACCESS = env.str("SLIPWAY_DEFAULT_ACCESS", default="public" if _IS_LAPTOP else "key_only")
if DEFAULT_ACCESS not in ("public", "key_only"):
    raise ImproperlyConfigured("SLIPWAY_DEFAULT_ACCESS is public or key_only.")
SECOND_FACTOR = env.str("SLIPWAY_SECOND_FACTOR", default="optional")
if SECOND_FACTOR not in ("optional", "operators", "everyone"):
    raise ImproperlyConfigured("SLIPWAY_SECOND_FACTOR is optional, operators or everyone.")
DEBUG = env.bool("SLIPWAY_DEBUG", default=False)
HTTPS = PUBLIC_URL.startswith("https://")
ALLOWED_HOSTS = [
    urlsplit(PUBLIC_URL).hostname,
    "127.0.0.1",
    "localhost",
    *env.list("SLIPWAY_ALLOWED_HOSTS", default=[]),
]
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
# Exactly where the console's pages are, and under a laptop's other name; a port is another origin.
WEBSOCKET_ORIGINS = [PUBLIC_URL]
if urlsplit(PUBLIC_URL).hostname in ("127.0.0.1", "localhost"):
    WEBSOCKET_ORIGINS += [
        PUBLIC_URL.replace(f"//{urlsplit(PUBLIC_URL).hostname}", f"//{name}") for name in ("127.0.0.1", "localhost")
    ]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "channels",
    "csp",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "accounts",
    "deployments",
    "apikeys",
    "monitoring",
    "async_inference",
    "dashboard.apps.DashboardConfig",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "dashboard.middleware.SlashMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "dashboard.middleware.SignInAgainMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "accounts.middleware.AuditSourceMiddleware",
    "accounts.browser_sessions.BrowserSessionMiddleware",
    "accounts.second_factor.SecondFactorMiddleware",
    "dashboard.middleware.StoreErrorMiddleware",
]

ROOT_URLCONF = "dashboard.urls"
ASGI_APPLICATION = "dashboard.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": False,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "dashboard.context.console",
            ],
            "loaders": [
                (
                    "django.template.loaders.cached.Loader",
                    ["django.template.loaders.filesystem.Loader", "django.template.loaders.app_directories.Loader"],
                )
            ],
        },
    }
]

DATABASES = {"default": env.db_url_config(DATABASE_URL)}
DATABASES["default"] |= {
    "ENGINE": "common.postgresql",
    # Each request under ASGI has a thread of its own: a connection kept in one is used by nobody else and only fills the server.
    "CONN_MAX_AGE": 0,
}
DATABASES["default"].setdefault("OPTIONS", {})
DATABASES["default"]["OPTIONS"] |= {"connect_timeout": 5}
if "host" in DATABASES["default"]["OPTIONS"]:
    DATABASES["default"]["HOST"] = DATABASES["default"]["OPTIONS"].pop("host")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS = {
    "default": {"BACKEND": "dashboard.channel_layer.ChannelLayer", "CONFIG": {"hosts": [REDIS_URL], "capacity": 500}}
}

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = CELERY_EVENT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = CELERY_RESULT_ACCEPT_CONTENT = ["json"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 2, "socket_timeout": 10}
CELERY_BROKER_CONNECTION_TIMEOUT = 2
CELERY_TASK_PUBLISH_RETRY = False
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_ACKS_LATE = False
CELERY_TIMEZONE = "UTC"

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/console/deployments/"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_REDIRECT_URL = "/accounts/login/"
ACCOUNT_ADAPTER = "accounts.sign_in.SignInAdapter"
# A right password is taken again after a minute; who goes on guessing waits longer.
ACCOUNT_RATE_LIMITS = {"login_failed": "10/m/ip,5/m/key,40/h/key"}
ACCOUNT_SESSION_REMEMBER = True
# Instead of mails there are links that operators make.
ACCOUNT_PASSWORD_RESET_TOKEN_GENERATOR = "accounts.passwords.LinkTokens"  # noqa: S105 (a class)
ACCOUNT_LOGIN_ON_PASSWORD_RESET = True
MFA_ADAPTER = "accounts.second_factor.Adapter"
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_FORMS = {
    "activate_totp": "accounts.second_factor.ActivateForm",
    "authenticate": "accounts.second_factor.SignInForm",
    "reauthenticate": "accounts.second_factor.ConfirmForm",
}
# Phones' clocks are some seconds off.
MFA_TOTP_PERIOD, MFA_TOTP_TOLERANCE = 30, 1
PASSWORD_RESET_TIMEOUT = 24 * 3600
# allauth's throttle counts in Django's cache; Valkey makes the count hold over several web processes.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "slipway",
        # Django would unpickle what the store holds: whoever can write there could run code here.
        "OPTIONS": {"serializer": "common.json_serializer.JsonSerializer"},
    }
}

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "dashboard.vendor_files.VendorFinder",
]
STORAGES = {"staticfiles": {"BACKEND": "dashboard.vendor_files.StaticStorage"}}

SESSION_COOKIE_NAME = "slipway_session"
CSRF_COOKIE_NAME = "slipway_csrf"
CSRF_FAILURE_VIEW = "dashboard.errors.csrf_failure"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
# Only a trusted proxy can tell that a request came by https: without one each would be sent there for ever.
SECURE_SSL_REDIRECT = HTTPS and bool(TRUSTED_PROXIES)
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'", f"ws://{urlsplit(PUBLIC_URL).netloc}", f"wss://{urlsplit(PUBLIC_URL).netloc}"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
    }
}
# Bodies of tests go through the console to the gateway; larger ones are refused with the remedy, see deployments.relay.
DATA_UPLOAD_MAX_MEMORY_SIZE = 12 << 20

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        # First: it names the scheme in the 401 that a caller without a token gets.
        "accounts.api_token.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "EXCEPTION_HANDLER": "dashboard.api.exception_handler",
    "DEFAULT_PAGINATION_CLASS": "dashboard.api.NameCursorPagination",
    "PAGE_SIZE": 50,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Slipway API",
    "DESCRIPTION": "Deploy models, watch them, scale and stop them.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {"httpx": {"level": "WARNING"}, "django.channels": {"level": "WARNING"}},
}
