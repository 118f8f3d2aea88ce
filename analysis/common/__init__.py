"""What several studies share: data, networks, tables that grow run by run, figures and pages."""

__all__: list[str] = []
