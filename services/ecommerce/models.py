"""Tables of the shop: users, products, orders with their items, reviews, and the record of seeded batches."""

from __future__ import annotations

import datetime as dt
import decimal

from sqlalchemy import (
    CHAR,
    CheckConstraint,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column, relationship

from services.common.database import BigId, CreatedAt
from services.ecommerce.database import Base


class User(Base):
    """A customer."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("email"),
        CheckConstraint("email = lower(email) AND position('@' in email) > 1 AND length(email) <= 254", name="email"),
        CheckConstraint("country ~ '^[A-Z]{2}$'", name="country"),
        {"comment": "Customers"},
    )

    id: Mapped[BigId]
    email: Mapped[str] = mapped_column(Text, comment="Lower case, so that the unique index alone finds duplicates")
    name: Mapped[str] = mapped_column(Text)
    password_hash: Mapped[str] = mapped_column(
        Text, comment="PHC string; one that starts with ! lets nobody in (seeded users)"
    )
    country: Mapped[str] = mapped_column(CHAR(2), comment="ISO 3166-1 alpha-2, where the user lives")
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[CreatedAt]

    orders: Mapped[list[Order]] = relationship(back_populates="user")


class Product(Base):
    """Something for sale."""

    __tablename__ = "products"
    __table_args__ = (
        UniqueConstraint("sku"),
        CheckConstraint("price > 0", name="price"),
        CheckConstraint("stock >= 0", name="stock"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        Index("products_search_idx", "search", postgresql_using="gin"),
        # A category's page, cheapest first, by keyset: WHERE category = ? AND (price, id) > (?, ?).
        Index("products_category_idx", "category", "price", "id", postgresql_where=text("active")),
        Index("products_newest_idx", text("created_at DESC"), text("id DESC"), postgresql_where=text("active")),
        {"comment": "What is for sale"},
    )

    id: Mapped[BigId]
    sku: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, server_default="")
    category: Mapped[str] = mapped_column(Text)
    price: Mapped[decimal.Decimal]
    currency: Mapped[str] = mapped_column(CHAR(3), server_default="USD")
    stock: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    search: Mapped[str] = mapped_column(
        TSVECTOR,
        Computed("to_tsvector('english'::regconfig, name || ' ' || description)", persisted=True),
        comment="Words of name and description, for full-text search",
    )
    created_at: Mapped[CreatedAt]


class Order(Base):
    """What one user bought at one time."""

    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("total >= 0", name="total"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint(
            "status IN ('pending', 'paid', 'shipped', 'delivered', 'cancelled', 'refunded')",
            name="status",
        ),
        # A user's history, newest first, answered from the index alone; it is the foreign key's index as well.
        Index(
            "orders_user_idx",
            "user_id",
            text("created_at DESC"),
            text("id DESC"),
            postgresql_include=["status", "total"],
        ),
        # What still has to be done: stays small however many orders there are.
        Index("orders_open_idx", "created_at", postgresql_where=text("status IN ('pending', 'paid')")),
        {"comment": "Orders; total is the sum of their items"},
    )

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    status: Mapped[str] = mapped_column(Text, server_default="pending")
    total: Mapped[decimal.Decimal]
    currency: Mapped[str] = mapped_column(CHAR(3), server_default="USD")
    created_at: Mapped[CreatedAt]

    user: Mapped[User] = relationship(back_populates="orders")
    items: Mapped[list[OrderItem]] = relationship(back_populates="order", cascade="all, delete-orphan")


class OrderItem(Base):
    """One product in an order, at the price it had then. A product appears once per order."""

    __tablename__ = "order_items"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity"),
        CheckConstraint("unit_price >= 0", name="unit_price"),
        Index("order_items_product_idx", "product_id"),
        {"comment": "What was ordered, at the price of that day"},
    )

    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id, ondelete="CASCADE"), primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey(Product.id), primary_key=True)
    quantity: Mapped[int] = mapped_column(Integer)
    unit_price: Mapped[decimal.Decimal]

    order: Mapped[Order] = relationship(back_populates="items")


class Review(Base):
    """What a user says about a product that he or she bought: once per product."""

    __tablename__ = "reviews"
    __table_args__ = (
        UniqueConstraint("user_id", "product_id"),
        # The purchase that gives the right to review; it also proves that the product exists.
        ForeignKeyConstraint(["order_id", "product_id"], [OrderItem.order_id, OrderItem.product_id]),
        CheckConstraint("rating BETWEEN 1 AND 5", name="rating"),
        Index("reviews_product_idx", "product_id", text("created_at DESC"), postgresql_include=["rating"]),
        Index("reviews_order_idx", "order_id", "product_id"),
        {"comment": "Reviews by people who bought the product"},
    )

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    product_id: Mapped[int]
    order_id: Mapped[int]
    rating: Mapped[int] = mapped_column(SmallInteger)
    title: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedAt]


class SeedBatch(Base):
    """One run of `shopfds seed`: its sizes, the ids set aside for it, and how much of it is committed."""

    __tablename__ = "seed_batches"
    __table_args__ = (
        CheckConstraint(
            "users_done <= users AND products_done <= products AND orders_done <= orders",
            name="done",
        ),
        CheckConstraint(
            "finished_at IS NULL OR (users_done = users AND products_done = products AND orders_done = orders)",
            name="finished",
        ),
        # At most one batch is under way: a second INSERT of an unfinished one is refused.
        Index(
            "seed_batches_unfinished_idx",
            text("(finished_at IS NULL)"),
            unique=True,
            postgresql_where=text("finished_at IS NULL"),
        ),
        {"comment": "Batches of generated data; an unfinished one is continued by the next shopfds seed"},
    )

    batch: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    generator: Mapped[int] = mapped_column(SmallInteger, comment="Version of the generator that made it")
    rng_seed: Mapped[int]
    users: Mapped[int]
    products: Mapped[int]
    orders: Mapped[int]
    reviews: Mapped[int]
    first_user_id: Mapped[int]
    first_product_id: Mapped[int]
    first_order_id: Mapped[int]
    first_review_id: Mapped[int]
    first_transaction_id: Mapped[int]
    users_done: Mapped[int] = mapped_column(server_default=text("0"))
    products_done: Mapped[int] = mapped_column(server_default=text("0"))
    orders_done: Mapped[int] = mapped_column(server_default=text("0"), comment="With items, reviews and transactions")
    started_at: Mapped[CreatedAt]
    finished_at: Mapped[dt.datetime | None]
