"""Alembic's door to the migrations of fds; the environment itself is services/common/migrations.py."""

from services.common import migrations
from services.fds import models
from services.fds.blacklist import models as blacklist
from services.fds.database import Base

TABLES = (models, blacklist)
"""Imported so that autogenerate sees every table of the schema."""

migrations.run(Base.metadata)
