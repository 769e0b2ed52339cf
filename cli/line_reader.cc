#include "cli/line_reader.h"

#include <fcntl.h>
#include <histedit.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "moe/base/check.h"

namespace conclave {
namespace {

constexpr int kHistoryLinesMax = 1000;

// xterm's bracketed paste: asked for while a line is edited; a paste then comes between the latter two.
constexpr absl::string_view kBracketPastes = "\x1b[?2004h", kDoNotBracketPastes = "\x1b[?2004l";
constexpr char kPasteBegins[] = "\x1b[200~";
constexpr absl::string_view kPasteEnds = "\x1b[201~";
constexpr size_t kPasteBytesMax = size_t{4} << 20;

// As text of one line buffer: line breaks stay, other control characters but tabs go.
std::string PastedText(absl::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    if (c == '\r') {
      text += '\n';
    } else if (c == '\n' || c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f)) {
      text += c;
    }
  }
  return std::string(absl::StripSuffix(text, "\n"));
}

class TerminalLineReader final : public LineReader {
 public:
  explicit TerminalLineReader(std::string history_file) : history_file_(std::move(history_file)) {
    // Characters beyond ASCII are edited as such where the locale says that the terminal knows them.
    if (setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    editor_ = el_init("conclave", stdin, stdout, stderr);
    history_ = history_init();
    CONCLAVE_CHECK(editor_ != nullptr && history_ != nullptr);
    HistEvent event;
    history(history_, &event, H_SETSIZE, kHistoryLinesMax);
    history(history_, &event, H_SETUNIQUE, 1);
    if (!history_file_.empty()) history(history_, &event, H_LOAD, history_file_.c_str());
    el_set(editor_, EL_CLIENTDATA, this);
    el_set(editor_, EL_PROMPT, &TerminalLineReader::Prompt);
    el_set(editor_, EL_HIST, history, history_);
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    // Ctrl-C and Ctrl-Z are keys while a line is edited: the line goes, or the process sleeps, and nothing else.
    el_set(editor_, EL_SETTY, "-d", "-isig", nullptr);
    el_set(editor_, EL_ADDFN, "drop-line", "drops the line", &TerminalLineReader::DropLine);
    el_set(editor_, EL_BIND, "^C", "drop-line", nullptr);
    el_set(editor_, EL_ADDFN, "suspend", "suspends the process", &TerminalLineReader::Suspend);
    el_set(editor_, EL_BIND, "^Z", "suspend", nullptr);
    el_set(editor_, EL_ADDFN, "paste", "takes what the terminal pastes", &TerminalLineReader::Paste);
    el_set(editor_, EL_BIND, kPasteBegins, "paste", nullptr);
    el_source(editor_, nullptr);
    const char* terminal = "";
    el_get(editor_, EL_TERMINAL, &terminal);
    brackets_pastes_ = isatty(STDOUT_FILENO) && absl::string_view(terminal) != "dumb";
  }

  ~TerminalLineReader() override {
    HistEvent event;
    if (!history_file_.empty()) history(history_, &event, H_SAVE, history_file_.c_str());
    el_end(editor_);
    history_end(history_);
  }

  Line Read(const std::string& prompt) override {
    prompt_ = prompt;
    dropped_ = false;
    el_resize(editor_);
    // Before the prompt is shown: whoever sees it may rely on the keys.
    el_set(editor_, EL_PREP_TERM, 1);
    Write(kBracketPastes);
    int length = 0;
    const char* text = el_gets(editor_, &length);
    Write(kDoNotBracketPastes);
    if (dropped_) {
      std::fputs("^C\n", stdout);
      std::fflush(stdout);
      return {Line::Kind::kInterrupted, ""};
    }
    if (text == nullptr || length <= 0) return {Line::Kind::kEnd, ""};
    return {Line::Kind::kText, std::string(absl::StripSuffix({text, static_cast<size_t>(length)}, "\n"))};
  }

  void Remember(const std::string& line) override {
    HistEvent event;
    history(history_, &event, H_ENTER, line.c_str());
  }

 private:
  static TerminalLineReader* Self(EditLine* editor) {
    TerminalLineReader* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return self;
  }

  static char* Prompt(EditLine* editor) { return Self(editor)->prompt_.data(); }

  static unsigned char DropLine(EditLine* editor, int) {
    Self(editor)->dropped_ = true;
    return CC_NEWLINE;
  }

  static unsigned char Suspend(EditLine* editor, int) {
    Self(editor)->Write(kDoNotBracketPastes);
    el_set(editor, EL_PREP_TERM, 0);
    raise(SIGTSTP);
    el_set(editor, EL_PREP_TERM, 1);
    Self(editor)->Write(kBracketPastes);
    return CC_REDISPLAY;
  }

  static unsigned char Paste(EditLine* editor, int) {
    std::string bytes;
    for (char c = 0; bytes.size() < kPasteBytesMax && !absl::EndsWith(bytes, kPasteEnds); bytes += c) {
      if (read(STDIN_FILENO, &c, 1) != 1) break;
    }
    const std::string text = PastedText(absl::StripSuffix(bytes, kPasteEnds));
    return text.empty() || el_insertstr(editor, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  }

  void Write(absl::string_view sequence) const {
    if (!brackets_pastes_) return;
    std::fwrite(sequence.data(), 1, sequence.size(), stdout);
    std::fflush(stdout);
  }

  const std::string history_file_;
  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
  std::string prompt_;
  bool dropped_ = false;
  bool brackets_pastes_ = false;
};

class StreamLineReader final : public LineReader {
 public:
  explicit StreamLineReader(std::istream* input) : input_(*input) {}
  Line Read(const std::string&) override {
    Line line;
    if (std::getline(input_, line.text)) line.kind = Line::Kind::kText;
    line.text = std::string(absl::StripSuffix(line.text, "\r"));
    return line;
  }
  void Remember(const std::string&) override {}

 private:
  std::istream& input_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LineReader>> NewTerminalLineReader(const std::string& history_file) {
  if (!history_file.empty()) {
    // For its owner alone: it holds what was asked.
    const int descriptor = open(history_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the history file ", history_file, " cannot be written: ", strerror(errno)));
    }
    close(descriptor);
  }
  return std::make_unique<TerminalLineReader>(history_file);
}

std::unique_ptr<LineReader> NewStreamLineReader(std::istream* input) {
  return std::make_unique<StreamLineReader>(input);
}

}  // namespace conclave
