"""Seed data: a plan of sizes, a pure generator, and a loader that COPYs what it makes."""
