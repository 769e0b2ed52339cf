// The loop of a terminal chat: lines become questions or commands, answers stream out. It knows no network.
#ifndef CONCLAVE_CLI_CHAT_SESSION_H_
#define CONCLAVE_CLI_CHAT_SESSION_H_

#include <functional>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cli/conversation.h"
#include "cli/line_reader.h"
#include "cli/sampling_flags.h"
#include "conclave/v1/inference.pb.h"

namespace conclave {

// What came of a question.
struct ChatAnswer {
  std::string text;           // all of it so far, also where an error ended it
  std::string finish_reason;  // "stop" or "length"; empty where it did not end well
  v1::Usage usage;
  absl::Duration first, total;  // until the first piece of text, and until the end
};

// Asks, and calls `sink` with each piece of the answer, whole characters. CANCELLED: the user cut it off.
using AskFunction = std::function<absl::Status(const v1::ChatRequest&,
                                               const std::function<void(absl::string_view)>& sink, ChatAnswer*)>;

// How a session talks to its user.
struct ChatSessionOptions {
  bool interactive = false;  // prompts and hints; errors do not end the session
  bool sanitize = false;     // no control characters of the model's on `output`
  bool statistics = false;   // after each answer, tokens and times on `notes`
};

// One conversation. Used by one thread; nothing is owned.
class ChatSession {
 public:
  ChatSession(const ChatSessionOptions& options, LineReader& reader, AskFunction ask, std::ostream& output,
              std::ostream& notes);

  Conversation& conversation() { return conversation_; }
  SamplingFlags& sampling() { return sampling_; }

  // Until the end of the input or /bye. Not interactive: the error of the first question that failed.
  absl::Status Run();

 private:
  enum class Next { kGoOn, kLeave };

  // One line, or all of a text between """ and """.
  Line ReadMessage();
  absl::Status Take(const std::string& message, Next* next);
  absl::Status RunCommand(absl::string_view name, absl::string_view argument, Next* next);
  absl::Status Question(const std::string& text);
  absl::Status Retry();
  absl::Status SetSystem(absl::string_view text);
  absl::Status SetSampling(absl::string_view argument);
  void ShowHelp();
  void ShowState();
  void ShowStatistics(const ChatAnswer& answer);
  void Note(absl::string_view text);

  const ChatSessionOptions options_;
  LineReader& reader_;
  const AskFunction ask_;
  std::ostream& output_;
  std::ostream& notes_;
  Conversation conversation_;
  SamplingFlags sampling_;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_CHAT_SESSION_H_
