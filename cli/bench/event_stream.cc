#include "cli/bench/event_stream.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace conclave {
namespace {

constexpr size_t kEventBytesMax = 16 << 20;
constexpr size_t kShownBytesMax = 200;

std::string TextOf(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::optional<int64_t> NumberOf(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer()) return std::nullopt;
  return found->get<int64_t>();
}

// "type: message" of {"error": {…}}; none where there is no error.
std::optional<std::string> ErrorOf(const nlohmann::json& json) {
  if (!json.is_object() || !json.contains("error") || json["error"].is_null()) return std::nullopt;
  const nlohmann::json& error = json["error"];
  if (!error.is_object()) return error.dump().substr(0, kShownBytesMax);
  const std::string type = TextOf(error, "type");
  return absl::StrCat(type, type.empty() ? "" : ": ", TextOf(error, "message"));
}

}  // namespace

absl::Status EventStreamParser::Feed(absl::string_view bytes, absl::FunctionRef<void(absl::string_view)> on_data) {
  for (const char c : bytes) {
    const bool second_of_pair = c == '\n' && after_return_;
    after_return_ = c == '\r';
    if (second_of_pair) continue;
    if (c == '\n' || c == '\r') {
      TakeLine(on_data);
      continue;
    }
    line_ += c;
    if (line_.size() + data_.size() > kEventBytesMax) {
      return absl::ResourceExhaustedError(absl::StrCat("an event of more than ", kEventBytesMax, " bytes"));
    }
  }
  return absl::OkStatus();
}

void EventStreamParser::TakeLine(absl::FunctionRef<void(absl::string_view)> on_data) {
  absl::string_view line = line_;
  if (line.empty()) {
    if (has_data_) on_data(data_);
    data_.clear();
    has_data_ = false;
  } else if (line == "data" || absl::ConsumePrefix(&line, "data:")) {
    if (line == "data") line = "";
    absl::ConsumePrefix(&line, " ");
    if (has_data_) data_ += '\n';
    data_.append(line.data(), line.size());
    has_data_ = true;
  }
  line_.clear();
}

absl::StatusOr<CompletionEvent> ParseCompletionEvent(absl::string_view data) {
  CompletionEvent event;
  if (data == "[DONE]") {
    event.done = true;
    return event;
  }
  const nlohmann::json json = nlohmann::json::parse(data.begin(), data.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::DataLossError(absl::StrCat("an event that is no JSON object: ", data.substr(0, kShownBytesMax)));
  }
  event.error = ErrorOf(json);
  if (json.contains("choices") && json["choices"].is_array() && !json["choices"].empty()) {
    const nlohmann::json& choice = json["choices"][0];
    if (!choice.is_object()) return absl::DataLossError("an event whose choice is no object");
    event.finished = !TextOf(choice, "finish_reason").empty();
    event.piece = !event.finished || !TextOf(choice, "text").empty();
  }
  if (json.contains("usage") && json["usage"].is_object()) {
    const nlohmann::json& usage = json["usage"];
    event.prompt_tokens = NumberOf(usage, "prompt_tokens");
    event.completion_tokens = NumberOf(usage, "completion_tokens");
    const auto details = usage.find("prompt_tokens_details");
    if (details != usage.end() && details->is_object()) event.cached_tokens = NumberOf(*details, "cached_tokens");
  }
  return event;
}

std::string ErrorMessageOf(absl::string_view body) {
  const nlohmann::json json = nlohmann::json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
  if (const std::optional<std::string> error = ErrorOf(json); error.has_value()) return *error;
  return std::string(body.substr(0, kShownBytesMax));
}

}  // namespace conclave
