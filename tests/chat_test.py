"""`conclave chat` on a terminal of its own and through pipes: history, Ctrl-C, a gateway that goes and comes back."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
import unittest

from conclave_test_lib import CONCLAVE, DEMO_MODEL, Cluster, Gateway, clean_environment, free_port, new_folder, run
from http_client import Client

PROMPT = ">>> "
GREEDY = ["--temperature", "0", "--max-tokens", "40"]
# Without end, since every token is about as likely as the end.
ENDLESS = ["--temperature", "100", "--seed", "1", "--max-tokens", "1900"]


class Terminal:
    """A command on a pseudo-terminal. What it writes is collected without escape sequences."""

    def __init__(self, *arguments):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x18\x00\xa0\x00\x00\x00\x00\x00")  # 24 rows of 160

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen([CONCLAVE, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave,
                                        env=clean_environment(TERM="vt100", LC_ALL="C.UTF-8"),
                                        preexec_fn=take_terminal)
        os.close(slave)
        self.text = ""

    def type(self, text):
        os.write(self.master, text.encode())

    def read_until(self, pattern, seconds=60):
        """Waits for `pattern` behind what was read before, and returns all text up to its end."""
        end = time.monotonic() + seconds
        while True:
            match = re.search(pattern, self.text)
            if match:
                found, self.text = self.text[:match.end()], self.text[match.end():]
                return found
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:  # the other side has closed
                    data = b""
                assert data, f"ended without {pattern!r}: {self.text!r}"
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r", "", data.decode(errors="replace"))

    def interrupt_until(self, pattern, seconds=60):
        """Types Ctrl-C until `pattern` is seen: the first may come before there is something to interrupt."""
        end = time.monotonic() + seconds
        while True:
            self.type("\x03")
            try:
                return self.read_until(pattern, 2)
            except AssertionError:
                if time.monotonic() > end:
                    raise

    def ask(self, text):
        """One line and what is answered until the next prompt."""
        self.type(text + "\r")
        return self.read_until(re.escape(PROMPT))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        os.close(self.master)
        return code


class ChatTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster("--model", DEMO_MODEL, "--transport", "inproc")
        cls.addClassCleanup(cls.cluster.__exit__)

    def start(self, *flags, address=None):
        where = ["--address", address] if address else ["--run-dir", self.cluster.run_dir]
        terminal = Terminal("chat", *where, *flags)
        self.addCleanup(terminal.close)
        terminal.read_until(re.escape(PROMPT))
        return terminal

    def pipe(self, text, *flags):
        return subprocess.run([CONCLAVE, "chat", "--run-dir", self.cluster.run_dir, *flags], input=text,
                              capture_output=True, text=True, timeout=120, env=clean_environment())

    def over_http(self, *contents):
        """The answer to a conversation, whose contents are those of user and assistant in turn."""
        messages = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
        answer = Client(self.cluster.http()).post("/v1/chat/completions",
                                                  {"messages": messages, "temperature": 0, "max_tokens": 40})
        return answer.json()["choices"][0]["message"]["content"]

    def test_through_a_pipe_each_line_is_a_question_of_one_conversation(self):
        first, second = "Who are you?", "What is a mixture of experts?"
        one = self.over_http(first)
        two = self.over_http(first, one, second)
        result = self.pipe(f"{first}\n\n/show\n{second}\n", *GREEDY)
        self.assertEqual((result.returncode, result.stdout), (0, f"{one}\n{two}\n"), result.stderr)

    def test_through_a_pipe_an_error_ends_it_with_exit_code_one(self):
        result = self.pipe("Who are you?\n/nonsense\nWho are you?\n", *GREEDY)
        self.assertEqual(result.returncode, 1)
        self.assertIn("conclave chat: there is no command /nonsense", result.stderr)
        self.assertEqual(result.stdout.count("\n"), 1)
        nobody = run("chat", "--address", f"127.0.0.1:{free_port()}")
        self.assertEqual(nobody.returncode, 1)
        self.assertIn("no gateway answers at 127.0.0.1", nobody.stderr)
        http = self.cluster.processes("gateway")[0]["http"]
        for address, complaint in [(http, "speaks HTTP; give the gateway's address for gRPC"),
                                   (self.cluster.processes("router")[0]["grpc"], "is no gateway of this version"),
                                   ("http://" + http, "--address takes HOST:PORT for gRPC"),
                                   ("nobody.invalid:1", "no gateway answers at nobody.invalid:1")]:
            other = run("chat", "--address", address)
            self.assertNotEqual(other.returncode, 0)
            self.assertIn(complaint, other.stderr)
        wrong = run("chat", "--run-dir", self.cluster.run_dir, "--top-p", "2")
        self.assertEqual(wrong.returncode, 2)
        self.assertIn("--top-p takes a number", wrong.stderr)

    def test_lines_are_edited_and_remembered(self):
        folder = new_folder()
        history, saved = os.path.join(folder, "history"), os.path.join(folder, "saved.json")
        terminal = self.start(*GREEDY, "--history-file", history)
        question = "Who are you?"
        answer = self.over_http(question)
        # "are" is typed last, at its place: home, four characters right, insert.
        terminal.type("Who you?\x01\x06\x06\x06\x06are ")
        terminal.type("\r")
        terminal.read_until(re.escape(answer))
        terminal.read_until(re.escape(PROMPT))
        terminal.ask("/reset")
        terminal.type("\x1b[A\x1b[A\r")  # the same line is two lines up
        terminal.read_until(re.escape(answer))
        terminal.read_until(re.escape(PROMPT))
        self.assertIn("1 turn written", terminal.ask(f"/save {saved}"))
        with open(saved) as file:
            self.assertEqual(json.load(file)["messages"], [{"role": "user", "content": question},
                                                           {"role": "assistant", "content": answer}])
        terminal.type("\x04")  # Ctrl-D
        self.assertEqual(terminal.process.wait(timeout=30), 0)
        # The next run has both: the lines that were typed, and the conversation.
        again = self.start(*GREEDY, "--history-file", history)
        self.assertIn(saved, again.ask(f"/load {saved}"))
        again.type("\x1b[A\x1b[A\r")  # two lines up is /save
        again.read_until("1 turn written")
        again.read_until(re.escape(PROMPT))
        self.assertIn("turns: 1", again.ask("/show"))
        self.assertIn("é", again.ask("/system café"))
        self.assertIn("system message: café", again.ask("/show"))
        again.type("/bye\r")
        self.assertEqual(again.process.wait(timeout=30), 0)
        self.assertEqual(os.stat(history).st_mode & 0o077, 0)

    def test_a_paste_of_several_lines_is_one_question(self):
        terminal = self.start(*GREEDY)
        saved = os.path.join(new_folder(), "saved.json")
        question = "Please: who are\nyou,[A and\twhy? Tell me."
        terminal.type("Please: \x1b[200~who are\ryou,\x03\x1b[A and\twhy?\r\x1b[201~ Tell me.\r")
        terminal.read_until(re.escape(PROMPT))
        self.assertIn("1 turn written", terminal.ask(f"/save {saved}"))
        with open(saved) as file:
            self.assertEqual(json.load(file)["messages"][0]["content"], question)
        answer = self.over_http(question)
        again = self.over_http(question, answer, question)
        terminal.type("\x1b[A\x1b[A\r")  # it is one entry of the history, too
        terminal.read_until(re.escape(again.splitlines()[-1]))
        terminal.read_until(re.escape(PROMPT))
        self.assertIn("2 turns written", terminal.ask(f"/save {saved}"))
        with open(saved) as file:
            messages = json.load(file)["messages"]
        self.assertEqual(messages[2], messages[0])

    def test_an_interrupt_drops_the_line_or_cuts_the_answer_and_the_conversation_goes_on(self):
        terminal = self.start(*ENDLESS)
        terminal.type("never sent\x03")
        self.assertIn("Ctrl-D", terminal.read_until(re.escape(PROMPT)))

        router = self.cluster.processes("router")[0]["pid"]
        terminal.type("Tell me everything\r")
        terminal.read_until(r"Tell me everything\s+\S+ \S")  # the answer has begun
        os.kill(router, signal.SIGSTOP)  # and cannot end
        try:
            terminal.type("\x03")
            self.assertIn("(cut off)", terminal.read_until(re.escape(PROMPT), 20))
            terminal.type("Again\r")
            terminal.interrupt_until("the question is forgotten")
        finally:
            os.kill(router, signal.SIGCONT)
        terminal.type("/show\r")
        terminal.read_until("turns: 1")
        terminal.read_until(re.escape(PROMPT))
        for setting in ("temperature 0", "max-tokens 8"):
            terminal.ask(f"/set {setting}")
        # The gateway may have given the stopped attention service up, and asks it once more before it refuses.
        answer = terminal.ask("Who are you?")
        self.assertRegex(answer, r"Who are you\?\s+\S")
        self.assertIn("turns: 2", terminal.ask("/show"), answer)
        terminal.type("\x04")
        self.assertEqual(terminal.process.wait(timeout=30), 0)

    def test_a_gateway_that_goes_is_an_error_and_the_next_question_works_once_it_is_back(self):
        address = f"127.0.0.1:{free_port()}"
        gateway = Gateway(self.cluster, "--grpc-address", address)
        terminal = self.start(*GREEDY, address=address)
        expected = self.over_http("Who are you?")
        self.assertIn(expected, terminal.ask("Who are you?"))
        self.assertEqual(gateway.stop(), 0)
        self.assertIn(f"error: no gateway answers at {address}", terminal.ask("What is a mixture of experts?"))
        gateway = Gateway(self.cluster, "--grpc-address", address)
        self.addCleanup(gateway.stop)
        # The failed question left nothing behind.
        following = self.over_http("Who are you?", expected, "Tell me more.")
        end = time.monotonic() + 30
        answer = terminal.ask("Tell me more.")
        while "error:" in answer and time.monotonic() < end:
            answer = terminal.ask("Tell me more.")
        self.assertIn(following.split("\n")[0], answer)


if __name__ == "__main__":
    unittest.main()
