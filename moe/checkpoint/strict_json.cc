#include "moe/checkpoint/strict_json.h"

#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moe/base/json_complaint.h"
#include "moe/base/limits.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

// Looks at structure only; values pass.
class StructureHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_array(size_t) override { return Enter(); }
  bool end_array() override { return Leave(); }
  bool start_object(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }

  bool key(string_t& key) override {
    if (keys_.back().insert(key).second) return true;
    status_ = absl::InvalidArgumentError(
        absl::StrCat("the key \"", absl::CHexEscape(absl::string_view(key).substr(0, 200)), "\" stands twice"));
    return false;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    status_ = absl::InvalidArgumentError(absl::StrCat(
        "not valid JSON at byte ", position, ": ", absl::CHexEscape(JsonComplaint(error.what()).substr(0, 300))));
    return false;
  }
  const absl::Status& status() const { return status_; }

 private:
  bool Enter() {
    keys_.emplace_back();
    if (static_cast<int>(keys_.size()) <= limits::kJsonDepthMax) return true;
    status_ = absl::InvalidArgumentError(absl::StrCat("JSON nested deeper than ", limits::kJsonDepthMax));
    return false;
  }
  bool Leave() {
    keys_.pop_back();
    return true;
  }

  std::vector<absl::flat_hash_set<std::string>> keys_;  // one set an open object or list
  absl::Status status_;
};

}  // namespace

absl::Status CheckStrictJson(absl::string_view text) {
  // nlohmann's parser takes a zero byte for the end and would not look at what follows it.
  if (const size_t zero = text.find('\0'); zero != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("not valid JSON at byte ", zero, ": a zero byte"));
  }
  StructureHandler handler;
  const bool parsed = nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  if (!handler.status().ok()) return handler.status();
  return parsed ? absl::OkStatus() : absl::InvalidArgumentError("not valid JSON");
}

}  // namespace conclave
