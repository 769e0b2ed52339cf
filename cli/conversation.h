// The messages of a chat, as they are sent to a gateway and kept in files.
#ifndef CONCLAVE_CLI_CONVERSATION_H_
#define CONCLAVE_CLI_CONVERSATION_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"

namespace conclave {

// A system message, where there is one, and turns of user and assistant.
class Conversation {
 public:
  // Empty: none.
  void SetSystem(absl::string_view text) { system_ = std::string(text); }
  const std::string& system() const { return system_; }
  // Adds a turn: a question, and as much of its answer as there is.
  void Add(absl::string_view question, absl::string_view answer);
  // Forgets all turns; the system message stays.
  void Reset() { turns_.clear(); }
  // Takes the last turn back and returns its question; empty where there is no turn.
  std::string TakeBackLast();
  size_t turns() const { return turns_.size(); }

  // All messages, with `question` as the last one.
  v1::ChatRequest Ask(absl::string_view question) const;

  // {"messages": [{"role": …, "content": …}, …]}, which OpenAI's API takes as a request. INVALID_ARGUMENT: the file
  // cannot be written.
  absl::Status Save(const std::string& path) const;
  // Becomes what such a file holds. INVALID_ARGUMENT names the file and what is wrong; nothing has changed then.
  absl::Status Load(const std::string& path);

 private:
  struct Turn {
    std::string question, answer;
  };
  std::string system_;
  std::vector<Turn> turns_;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_CONVERSATION_H_
