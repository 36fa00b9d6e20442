"""Users, products, orders with their items, reviews, and the record of seeded batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001_initial"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "products",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("price", sa.Numeric(12, 2), nullable=False),
        sa.Column("currency", sa.CHAR(3), server_default="USD", nullable=False),
        sa.Column("stock", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('english'::regconfig, name || ' ' || description)", persisted=True),
            nullable=False,
            comment="Words of name and description, for full-text search",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("products_currency_check")),
        sa.CheckConstraint("price > 0", name=op.f("products_price_check")),
        sa.CheckConstraint("stock >= 0", name=op.f("products_stock_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("products_pkey")),
        sa.UniqueConstraint("sku", name=op.f("products_sku_key")),
        schema="ecommerce",
        comment="What is for sale",
    )
    op.create_index(
        "products_category_idx",
        "products",
        ["category", "price", "id"],
        schema="ecommerce",
        postgresql_where=sa.text("active"),
    )
    op.create_index(
        "products_newest_idx",
        "products",
        [sa.text("created_at DESC"), sa.text("id DESC")],
        schema="ecommerce",
        postgresql_where=sa.text("active"),
    )
    op.create_index("products_search_idx", "products", ["search"], schema="ecommerce", postgresql_using="gin")
    op.create_table(
        "seed_batches",
        sa.Column("batch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generator", sa.SmallInteger(), nullable=False, comment="Version of the generator that made it"),
        sa.Column("rng_seed", sa.BigInteger(), nullable=False),
        sa.Column("users", sa.BigInteger(), nullable=False),
        sa.Column("products", sa.BigInteger(), nullable=False),
        sa.Column("orders", sa.BigInteger(), nullable=False),
        sa.Column("reviews", sa.BigInteger(), nullable=False),
        sa.Column("first_user_id", sa.BigInteger(), nullable=False),
        sa.Column("first_product_id", sa.BigInteger(), nullable=False),
        sa.Column("first_order_id", sa.BigInteger(), nullable=False),
        sa.Column("first_review_id", sa.BigInteger(), nullable=False),
        sa.Column("first_transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("users_done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("products_done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "orders_done",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="With items, reviews and transactions",
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "finished_at IS NULL OR (users_done = users AND products_done = products AND orders_done = orders)",
            name=op.f("seed_batches_finished_check"),
        ),
        sa.CheckConstraint(
            "users_done <= users AND products_done <= products AND orders_done <= orders",
            name=op.f("seed_batches_done_check"),
        ),
        sa.PrimaryKeyConstraint("batch", name=op.f("seed_batches_pkey")),
        schema="ecommerce",
        comment="Batches of generated data; an unfinished one is continued by the next shopfds seed",
    )
    op.create_index(
        "seed_batches_unfinished_idx",
        "seed_batches",
        [sa.text("(finished_at IS NULL)")],
        unique=True,
        schema="ecommerce",
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "email", sa.Text(), nullable=False, comment="Lower case, so that the unique index alone finds duplicates"
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "password_hash",
            sa.Text(),
            nullable=False,
            comment="PHC string; one that starts with ! lets nobody in (seeded users)",
        ),
        sa.Column("country", sa.CHAR(2), nullable=False, comment="ISO 3166-1 alpha-2, where the user lives"),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("country ~ '^[A-Z]{2}$'", name=op.f("users_country_check")),
        sa.CheckConstraint(
            "email = lower(email) AND position('@' in email) > 1 AND length(email) <= 254",
            name=op.f("users_email_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("users_pkey")),
        sa.UniqueConstraint("email", name=op.f("users_email_key")),
        schema="ecommerce",
        comment="Customers",
    )
    op.create_table(
        "orders",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("total", sa.Numeric(12, 2), nullable=False),
        sa.Column("currency", sa.CHAR(3), server_default="USD", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("orders_currency_check")),
        sa.CheckConstraint(
            "status IN ('pending', 'paid', 'shipped', 'delivered', 'cancelled', 'refunded')",
            name=op.f("orders_status_check"),
        ),
        sa.CheckConstraint("total >= 0", name=op.f("orders_total_check")),
        sa.ForeignKeyConstraint(["user_id"], ["ecommerce.users.id"], name=op.f("orders_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("orders_pkey")),
        schema="ecommerce",
        comment="Orders; total is the sum of their items",
    )
    op.create_index(
        "orders_open_idx",
        "orders",
        ["created_at"],
        schema="ecommerce",
        postgresql_where=sa.text("status IN ('pending', 'paid')"),
    )
    op.create_index(
        "orders_user_idx",
        "orders",
        ["user_id", sa.text("created_at DESC"), sa.text("id DESC")],
        schema="ecommerce",
        postgresql_include=["status", "total"],
    )
    op.create_table(
        "order_items",
        sa.Column("order_id", sa.BigInteger(), nullable=False),
        sa.Column("product_id", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("unit_price", sa.Numeric(12, 2), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("order_items_quantity_check")),
        sa.CheckConstraint("unit_price >= 0", name=op.f("order_items_unit_price_check")),
        sa.ForeignKeyConstraint(
            ["order_id"], ["ecommerce.orders.id"], name=op.f("order_items_order_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["product_id"], ["ecommerce.products.id"], name=op.f("order_items_product_id_fkey")),
        sa.PrimaryKeyConstraint("order_id", "product_id", name=op.f("order_items_pkey")),
        schema="ecommerce",
        comment="What was ordered, at the price of that day",
    )
    op.create_index("order_items_product_idx", "order_items", ["product_id"], schema="ecommerce")
    op.create_table(
        "reviews",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("product_id", sa.BigInteger(), nullable=False),
        sa.Column("order_id", sa.BigInteger(), nullable=False),
        sa.Column("rating", sa.SmallInteger(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("rating BETWEEN 1 AND 5", name=op.f("reviews_rating_check")),
        sa.ForeignKeyConstraint(
            ["order_id", "product_id"],
            ["ecommerce.order_items.order_id", "ecommerce.order_items.product_id"],
            name=op.f("reviews_order_id_product_id_fkey"),
        ),
        sa.ForeignKeyConstraint(["user_id"], ["ecommerce.users.id"], name=op.f("reviews_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("reviews_pkey")),
        sa.UniqueConstraint("user_id", "product_id", name=op.f("reviews_user_id_product_id_key")),
        schema="ecommerce",
        comment="Reviews by people who bought the product",
    )
    op.create_index("reviews_order_idx", "reviews", ["order_id", "product_id"], schema="ecommerce")
    op.create_index(
        "reviews_product_idx",
        "reviews",
        ["product_id", sa.text("created_at DESC")],
        schema="ecommerce",
        postgresql_include=["rating"],
    )


def downgrade() -> None:
    for table in ("reviews", "order_items", "orders", "seed_batches", "products", "users"):
        op.drop_table(table, schema="ecommerce")
