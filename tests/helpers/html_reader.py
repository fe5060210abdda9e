"""Reader of pieces of the page's HTML, and a text that would run as script or markup where it is not escaped."""

from html.parser import HTMLParser

HOSTILE = "<script>hit()</script><img src=x onerror=hit()>\"'`${hit()}{{hit}}&lt;b&gt;"


class Reader(HTMLParser):
    """Parser that collects the tags, the attributes and the text of a piece of HTML."""

    def __init__(self, html: str):
        super().__init__()
        self.tags = []
        self.attributes = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Collect a tag with its attributes."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        """Collect text between tags."""
        self.text += data
