"""The Django project. Importing it loads Celery's app, so that services can enqueue tasks by name."""

from dashboard.celery import app as celery_app

__all__ = ["celery_app"]
