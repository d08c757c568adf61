"""What the pages draw: colours, payloads for the browser, and the components that take them. No page calls a model from here."""
