"""One HTML file about a trained run, and pictures of single cases."""
