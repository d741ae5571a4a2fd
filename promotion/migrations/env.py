"""Alembic's entry: runs migrations on the connection that `cascade.database.migrate` opened and will commit."""

from alembic import context

options = context.config.attributes
context.configure(connection=options["connection"], version_table=options["version_table"], transactional_ddl=False)
context.run_migrations()
