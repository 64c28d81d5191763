"""Reports of measured rows: curves, figures, tables and one HTML page."""

from compress_jax.runtime.extras import require

require('report', 'jinja2', 'matplotlib', 'plotly')
