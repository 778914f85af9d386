"""The page of figures and pictures: `build/<cascade>/report.html`."""
