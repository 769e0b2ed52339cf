"""The console in a real browser: a chat streams, the heat map changes, a shard that dies turns red; no error in the
browser's console, and no request to anybody but the gateway.

Needs Chromium (Debian's package chromium) and, from the package index, playwright; says what it skips without them.
CONCLAVE_SCREENSHOT=FILE.png keeps a picture.
"""
import os
import shutil
import sys
import unittest
from urllib.parse import urlparse

import tool_venv
from conclave_test_lib import DEMO_MODEL, Cluster, eventually

CHROMIUM = shutil.which("chromium", path="/usr/bin:/usr/local/bin")


class Console(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        from playwright.sync_api import sync_playwright
        cls.cluster = Cluster("--model", DEMO_MODEL, "--shards", 4, "--http-port", 0)
        cls.address = cls.cluster.processes("gateway")[0]["http"]
        cls.playwright = sync_playwright().start()
        cls.browser = cls.playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.playwright.stop()
        cls.cluster.__exit__()

    def open(self, scheme):
        page = self.browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
        self.errors, self.hosts, self.calls = [], set(), set()
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self.note)
        page.goto(f"http://{self.address}/")
        page.wait_for_selector(".node[data-name='expert-3']", timeout=30_000)
        return page

    def note(self, request):
        url = urlparse(request.url)
        if url.netloc:  # the empty icon has none
            self.hosts.add(url.netloc)
            self.calls.add((request.method, url.path))

    def until(self, page, expression, seconds=60):
        """Polls from outside: the page's security policy forbids what playwright's own waiting would do within it."""
        self.assertTrue(eventually(lambda: page.evaluate(expression), seconds), expression)

    def check_quiet(self):
        self.assertEqual(self.errors, [])
        self.assertEqual(self.hosts, {self.address})
        # It reads and chats: there is nothing that it could change.
        self.assertLessEqual(self.calls, {("GET", path) for path in (
            "/", "/console.css", "/console.js", "/tokens.js", "/experts")} | {("POST", "/v1/chat/completions")})

    def test_1_a_chat_streams_and_the_heat_map_changes(self):
        page = self.open("dark")
        page.select_option("#period", "0")
        before = page.get_attribute("#map canvas", "data-busiest")
        page.fill("#question", "What is a mixture of experts?")
        # How long the answer was whenever the page changed: a look from outside may come when all is over.
        page.evaluate("""() => {
            window.lengths = new Set();
            new MutationObserver(() => {
                const answer = document.querySelectorAll('.turn')[1];
                if (answer) window.lengths.add(answer.textContent.length);
            }).observe(document.body, {childList: true, subtree: true, characterData: true});
        }""")
        page.click("#send")
        answer = page.locator(".turn").nth(1)
        self.until(page, "document.querySelectorAll('.turn').length > 1 && !document.querySelector('#send').disabled")
        self.assertIn("experts", answer.text_content())
        self.assertGreater(page.evaluate("window.lengths.size"), 5, "the answer came in few pieces")
        self.until(page, f"document.querySelector('#map canvas').dataset.busiest !== '{before}'")
        page.focus("#map")
        page.keyboard.press("ArrowRight")
        self.until(page, "document.querySelector('#detail').textContent.includes('expert 0')")
        self.check_tokens(page)
        if os.environ.get("CONCLAVE_SCREENSHOT"):
            page.screenshot(path=os.environ["CONCLAVE_SCREENSHOT"])
        self.check_quiet()

    def check_tokens(self, page):
        """Each token of the answer marks its experts: by pointer, by keyboard, and on the strip below the answer."""
        marks = "document.querySelector('#map canvas').dataset.marked"
        tokens = page.locator(".turn .token")
        count = tokens.count()
        self.assertGreater(count, 20)
        self.assertEqual(page.get_attribute(".turn .strip", "data-frames"), str(count))
        tokens.nth(5).hover()
        self.until(page, f"{marks} !== ''")
        layers = dict(layer.split(":") for layer in page.evaluate(marks).split(","))
        self.assertEqual(list(layers), [str(layer) for layer in range(1, 8)], "every layer that has experts")
        for experts in layers.values():
            chosen = [int(expert) for expert in experts.split("+")]
            self.assertEqual(chosen, sorted(set(chosen)))
            self.assertTrue(all(0 <= expert < 32 for expert in chosen))
        pointed = page.evaluate(marks)
        page.mouse.move(1, 1)
        self.until(page, f"{marks} === ''")
        page.focus(".turn .tokens")
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        self.assertEqual(page.evaluate(marks), pointed, "the same token by the keyboard")
        self.assertIn("Token “", page.text_content("#detail"))
        page.keyboard.press("Escape")
        self.until(page, f"{marks} === ''")
        page.hover(".turn .strip", position={"x": 5, "y": 3})
        self.until(page, f"{marks} !== ''")

    def test_2_the_light_page_is_as_quiet(self):
        page = self.open("light")
        self.assertEqual(page.evaluate("getComputedStyle(document.body).backgroundColor"), "rgb(246, 247, 249)")
        page.click("#theme")
        self.assertEqual(page.evaluate("getComputedStyle(document.body).backgroundColor"), "rgb(16, 20, 27)")
        self.check_quiet()

    def test_2_an_answer_of_many_layers_stays_in_view_above_its_frames(self):
        page = self.open("light")
        frames = page.evaluate("""() => {
            const turn = document.createElement('p'), experts = {};
            document.querySelector('#talk').append(turn);
            for (let layer = 3; layer < 61; ++layer) experts[layer] = [1, 255];
            const answer = new AnswerTokens(turn, 256, () => {});
            for (let i = 0; i < 200; ++i) answer.add('word ', [{id: i, experts}]);
            const frames = turn.querySelector('.frames');
            return {shown: frames.clientHeight, all: frames.scrollHeight, seen: frames.scrollTop + frames.clientHeight};
        }""")
        self.assertLess(frames["shown"], 150)
        self.assertGreater(frames["all"], 1000)
        self.assertAlmostEqual(frames["seen"], frames["all"], delta=2)  # the latest
        self.check_quiet()

    def test_2_a_shard_that_is_left_alone_for_a_while_is_not_called_dead(self):
        page = self.open("light")
        state, text = page.evaluate("""() => {
            const snapshot = structuredClone(history[history.length - 1].snapshot);
            Object.assign(snapshot.shards.find(shard => shard.name === 'expert-1'), {healthy: false, avoided: true});
            drawCluster(snapshot);
            const shard = document.querySelector(".node[data-name='expert-1']");
            return [shard.dataset.state, shard.textContent];
        }""")
        self.assertEqual(state, "avoided")
        self.assertIn("avoided: slow or late", text)
        self.check_quiet()

    def test_3_a_shard_that_dies_turns_red(self):
        page = self.open("dark")
        shard = page.locator(".node[data-name='expert-2']")
        self.assertEqual(shard.get_attribute("data-state"), "up")
        process = next(p for p in self.cluster.processes("expert") if p["name"] == "expert-2")
        os.kill(process["pid"], 9)
        page.fill("#question", "Who are you?")
        page.click("#send")  # attention services notice at their next call
        page.wait_for_selector(".node[data-name='expert-2'][data-state='down']", timeout=60_000)
        self.assertIn("shards down", page.text_content("#state"))


if __name__ == "__main__":
    if CHROMIUM is None:
        print("skipped: the console was not tried in a browser; Debian's package chromium is missing")
        sys.exit(0)
    tools = tool_venv.ensure("console", ["playwright==1.49.1"])
    if tools is None:
        print("skipped: the console was not tried in a browser")
        sys.exit(0)
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(tools))):
        os.execv(tools, [tools, *sys.argv])
    unittest.main()
