#include "cli/chat_session.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/command.h"
#include "cli/terminal_text.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/nearest_name.h"

namespace conclave {
namespace {

constexpr char kFence[] = "\"\"\"";

struct Help {
  const char* command;
  const char* arguments;
  const char* text;
};
constexpr Help kHelp[] = {
    {"/help", "", "this list"},
    {"/system", "[TEXT]", "gives the model a system message, or takes it away, and begins anew"},
    {"/reset", "", "forgets the conversation; the system message and the settings stay"},
    {"/retry", "", "asks the last question again"},
    {"/set", "NAME VALUE", "a sampling setting, named like its flag: /set temperature 0.7; 'default' is the model's"},
    {"/show", "", "shows the system message, the settings and the length of the conversation"},
    {"/save", "FILE", "writes the conversation as JSON, in the form of OpenAI's messages"},
    {"/load", "FILE", "goes on from such a file"},
    {"/bye", "", "leaves, as Ctrl-D does"},
};

// The same under the names that other chats have.
absl::string_view Canonical(absl::string_view command) {
  if (command == "/exit" || command == "/quit") return "/bye";
  if (command == "/clear") return "/reset";
  if (command == "/regen") return "/retry";
  if (command == "/?") return "/help";
  return command;
}

absl::Status NeedsArgument(absl::string_view command, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(command, " needs ", what));
}

}  // namespace

ChatSession::ChatSession(const ChatSessionOptions& options, LineReader& reader, AskFunction ask, std::ostream& output,
                         std::ostream& notes)
    : options_(options), reader_(reader), ask_(std::move(ask)), output_(output), notes_(notes) {}

absl::Status ChatSession::Run() {
  for (Next next = Next::kGoOn; next == Next::kGoOn;) {
    const Line line = ReadMessage();
    if (line.kind == Line::Kind::kInterrupted) {
      Note("Ctrl-D or /bye leaves");
      continue;
    }
    if (line.kind == Line::Kind::kEnd) {
      if (options_.interactive) output_ << std::endl;
      return absl::OkStatus();
    }
    const absl::Status status = Take(line.text, &next);
    if (status.ok()) continue;
    if (!options_.interactive) return status;
    notes_ << "error: " << WithoutControls(OneLine(status.message())) << std::endl;
  }
  return absl::OkStatus();
}

Line ChatSession::ReadMessage() {
  Line message = reader_.Read(">>> ");
  if (message.kind != Line::Kind::kText) return message;
  if (!absl::StripAsciiWhitespace(message.text).empty()) reader_.Remember(message.text);
  // A command may take a fenced text as well: /system """
  const size_t fence = message.text.find(kFence);
  const bool opens = fence != std::string::npos && (fence == 0 || absl::StartsWith(message.text, "/"));
  if (!opens) return message;
  const std::string before = message.text.substr(0, fence);
  std::string body = message.text.substr(fence + strlen(kFence));
  for (size_t end = body.find(kFence); end == std::string::npos; end = body.find(kFence)) {
    const Line more = reader_.Read("... ");
    if (more.kind != Line::Kind::kText) return more;
    absl::StrAppend(&body, "\n", more.text);
  }
  message.text = before + body.substr(0, body.find(kFence));
  // The text is a question, whatever it begins with.
  if (fence == 0) message.text.insert(0, "\n");
  return message;
}

absl::Status ChatSession::Take(const std::string& message, Next* next) {
  // A space before it makes a question of what begins like a command.
  if (absl::StartsWith(message, "/")) {
    const size_t end = std::min(message.find_first_of(" \t\n"), message.size());
    return RunCommand(Canonical(message.substr(0, end)), absl::StripAsciiWhitespace(message.substr(end)), next);
  }
  const std::string text(absl::StripAsciiWhitespace(message));
  return text.empty() ? absl::OkStatus() : Question(text);
}

absl::Status ChatSession::RunCommand(absl::string_view name, absl::string_view argument, Next* next) {
  if (name == "/bye") {
    *next = Next::kLeave;
    return absl::OkStatus();
  }
  if (name == "/system") return SetSystem(argument);
  if (name == "/retry") return Retry();
  if (name == "/set") return SetSampling(argument);
  if (name == "/help") {
    ShowHelp();
    return absl::OkStatus();
  }
  if (name == "/show") {
    ShowState();
    return absl::OkStatus();
  }
  if (name == "/reset") {
    conversation_.Reset();
    Note("the conversation begins anew");
    return absl::OkStatus();
  }
  if (name == "/save" || name == "/load") {
    if (argument.empty()) return NeedsArgument(name, "the name of a file");
    const std::string path(argument);
    RETURN_IF_ERROR(name == "/save" ? conversation_.Save(path) : conversation_.Load(path));
    Note(absl::StrCat(conversation_.turns(), conversation_.turns() == 1 ? " turn " : " turns ",
                      name == "/save" ? "written to " : "read from ", path));
    return absl::OkStatus();
  }
  std::vector<std::string> names;
  for (const Help& help : kHelp) names.push_back(help.command);
  return absl::InvalidArgumentError(absl::StrCat("there is no command ", name,
                                                 "; /help lists them, and a space before the / makes it a question",
                                                 DidYouMean(std::string(name), names)));
}

absl::Status ChatSession::Question(const std::string& text) {
  v1::ChatRequest request = conversation_.Ask(text);
  sampling_.ApplyTo(*request.mutable_options());
  ChatAnswer answer;
  bool line_open = false;
  const auto sink = [this, &line_open](absl::string_view piece) {
    if (piece.empty()) return;
    output_ << (options_.sanitize ? WithoutControls(piece) : std::string(piece)) << std::flush;
    line_open = piece.back() != '\n';
  };
  const absl::Status status = ask_(request, sink, &answer);
  if (line_open) output_ << std::endl;
  const bool cut = absl::IsCancelled(status);
  // What failed leaves nothing behind, so that the same question can be asked again.
  if ((status.ok() || cut) && !answer.text.empty()) conversation_.Add(text, answer.text);
  if (cut) Note(answer.text.empty() ? "cut off before the first word; the question is forgotten" : "cut off");
  if (status.ok() && answer.text.empty()) Note("an empty answer; the question is forgotten");
  if (status.ok() && answer.finish_reason == "length") Note("the answer ends at the limit of tokens");
  if (status.ok() && options_.statistics) ShowStatistics(answer);
  if (cut) return absl::OkStatus();
  if (absl::IsInvalidArgument(status) && options_.interactive && conversation_.turns() > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(status.message()), " (/reset forgets the conversation so far)"));
  }
  return status;
}

absl::Status ChatSession::Retry() {
  if (conversation_.turns() == 0) return absl::FailedPreconditionError("there is no question to ask again");
  return Question(conversation_.TakeBackLast());
}

absl::Status ChatSession::SetSystem(absl::string_view text) {
  conversation_.SetSystem(text);
  conversation_.Reset();
  Note(text.empty() ? "no system message; the conversation begins anew"
                    : "the system message is set; the conversation begins anew");
  return absl::OkStatus();
}

absl::Status ChatSession::SetSampling(absl::string_view argument) {
  const size_t space = argument.find_first_of(" \t");
  if (space == absl::string_view::npos) return NeedsArgument("/set", "a name and a value");
  return sampling_.Set(argument.substr(0, space), std::string(absl::StripAsciiWhitespace(argument.substr(space))));
}

void ChatSession::ShowHelp() {
  for (const Help& help : kHelp) {
    notes_ << absl::StrFormat("  %-8s %-11s %s\n", help.command, help.arguments, help.text);
  }
  notes_ << "  \"\"\" begins a text of several lines, and \"\"\" ends it\n"
            "  Ctrl-C cuts an answer off, and the conversation goes on"
         << std::endl;
}

void ChatSession::ShowState() {
  notes_ << "  system message: " << (conversation_.system().empty() ? "none" : conversation_.system()) << "\n";
  for (const std::string& setting : sampling_.Describe()) notes_ << "  " << setting << "\n";
  notes_ << "  turns: " << conversation_.turns() << std::endl;
}

void ChatSession::ShowStatistics(const ChatAnswer& answer) {
  const int tokens = answer.usage.completion_tokens();
  const double decode_seconds = absl::ToDoubleSeconds(answer.total - answer.first);
  Note(absl::StrFormat("%d tokens read, %d of them cached; first token after %d ms; %d tokens written, %.1f a second",
                       answer.usage.prompt_tokens(), answer.usage.cached_tokens(),
                       absl::ToInt64Milliseconds(answer.first), tokens,
                       tokens > 1 && decode_seconds > 0 ? (tokens - 1) / decode_seconds : 0.0));
}

void ChatSession::Note(absl::string_view text) {
  if (options_.interactive || options_.statistics) notes_ << "(" << text << ")" << std::endl;
}

}  // namespace conclave
