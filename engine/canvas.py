"""A page that programs are drawn on, in inches from its upper left corner: boxes of text, arrows between them."""

FORWARD, BACKWARD, PLAIN, INK = "#2b6cb0", "#c05621", "#4a5568", "#1a202c"
RESULT = "\N{RIGHTWARDS ARROW}"  # begins a line that tells what a box makes
LINE = 0.185  # inches from one line of text to the next


class Canvas:
    """A page of matplotlib's; ImportError where that is missing."""

    def __init__(self, width, height):
        try:
            import matplotlib.figure
            import matplotlib.patches
            import matplotlib.path
        except ImportError:
            raise ImportError("drawing a program needs matplotlib: pip install matplotlib") from None
        self.matplotlib = matplotlib
        self.figure = matplotlib.figure.Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def rectangle(self, x, y, width, height, fill, edge="none", rounding=0.1, order=0):
        """A rectangle with round corners; those of a higher order lie on those of a lower one."""
        self.axes.add_patch(self.matplotlib.patches.FancyBboxPatch(
            (x, y), width, height, boxstyle=f"round,pad=0,rounding_size={rounding}", facecolor=fill, edgecolor=edge,
            linewidth=1.3, zorder=order))

    def text(self, x, y, text, color=PLAIN):
        """Text beside the boxes, with its upper left corner at (x, y)."""
        self.axes.text(x, y, text, va="top", fontsize=9, style="italic", color=color)

    def box(self, x, y, width, height, color, lines):
        """A box with lines of text, the first its title; a line that begins with | goes on with it."""
        self.rectangle(x, y, width, height, "white", color, rounding=0.07, order=2)
        top = y + (height - LINE * (len(lines) - 1)) / 2
        for number, line in enumerate(lines):
            bold = number == 0 or line.startswith("|")
            self.axes.text(x + width / 2, top + number * LINE, line, ha="center", va="center", zorder=3,
                           fontsize=8.5 if bold else 8, weight="bold" if bold else "normal",
                           color=color if line.startswith(RESULT) else INK)

    def arrow(self, points, color):
        """An arrow: a straight line between two points, else cubic Bézier curves, each with three more points."""
        kind = self.matplotlib.path.Path
        code = kind.LINETO if len(points) == 2 else kind.CURVE4
        path = kind(points, [kind.MOVETO] + [code] * (len(points) - 1))
        self.axes.add_patch(self.matplotlib.patches.FancyArrowPatch(
            path=path, arrowstyle="-|>", mutation_scale=10, color=color, linewidth=1.2, zorder=1))

    def save(self, path):
        """Write the page; the suffix tells the format: .svg, .png or .pdf. ValueError for one that is not known."""
        with self.matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hotloop"}):
            self.figure.savefig(path, dpi=110)
