"""Alembic's door to the migrations of ecommerce; the environment itself is services/common/migrations.py."""

from services.common import migrations
from services.ecommerce import models
from services.ecommerce.database import Base

TABLES = (models,)
"""Imported so that autogenerate sees every table of the schema."""

migrations.run(Base.metadata)
