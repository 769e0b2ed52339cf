#include "cli/conversation.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/json_writer.h"

namespace conclave {
namespace {

void AddMessage(absl::string_view role, absl::string_view content, v1::ChatRequest& request) {
  v1::ChatMessage* message = request.add_messages();
  message->set_role(std::string(role));
  message->set_content(std::string(content));
}

absl::Status NotOurs(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": not a conversation: ", why));
}

}  // namespace

void Conversation::Add(absl::string_view question, absl::string_view answer) {
  turns_.push_back({std::string(question), std::string(answer)});
}

std::string Conversation::TakeBackLast() {
  if (turns_.empty()) return "";
  std::string question = std::move(turns_.back().question);
  turns_.pop_back();
  return question;
}

v1::ChatRequest Conversation::Ask(absl::string_view question) const {
  v1::ChatRequest request;
  if (!system_.empty()) AddMessage("system", system_, request);
  for (const Turn& turn : turns_) {
    AddMessage("user", turn.question, request);
    AddMessage("assistant", turn.answer, request);
  }
  AddMessage("user", question, request);
  return request;
}

absl::Status Conversation::Save(const std::string& path) const {
  JsonWriter json;
  json.BeginObject().Key("messages").BeginArray();
  const auto add = [&json](absl::string_view role, absl::string_view content) {
    json.BeginObject().Key("role").Text(role).Key("content").Text(content).End();
  };
  if (!system_.empty()) add("system", system_);
  for (const Turn& turn : turns_) {
    add("user", turn.question);
    add("assistant", turn.answer);
  }
  json.End().End();
  errno = 0;
  std::ofstream file(path);
  file << json.text() << "\n";
  file.close();
  if (file) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("cannot write ", path, ": ", strerror(errno)));
}

absl::Status Conversation::Load(const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(absl::StrCat("cannot read ", path, ": ", strerror(errno)));
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("messages") || !json["messages"].is_array()) {
    return NotOurs(path, "it has no list \"messages\"");
  }
  Conversation loaded;
  std::string question;
  bool asked = false;
  for (const nlohmann::json& message : json["messages"]) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string() ||
        !message.contains("content") || !message["content"].is_string()) {
      return NotOurs(path, "a message has no text for \"role\" and \"content\"");
    }
    const std::string role = message["role"], content = message["content"];
    if (role == "system" && loaded.turns_.empty() && !asked && loaded.system_.empty()) {
      loaded.system_ = content;
    } else if (role == "user" && !asked) {
      question = content;
      asked = true;
    } else if (role == "assistant" && asked) {
      loaded.Add(question, content);
      asked = false;
    } else {
      return NotOurs(path, "a system message may come first, then user and assistant take turns");
    }
  }
  if (asked) return NotOurs(path, "the last message should be an answer");
  *this = std::move(loaded);
  return absl::OkStatus();
}

}  // namespace conclave
