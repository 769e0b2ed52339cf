#include "gateway/http/json_body.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"

namespace conclave {
namespace {

using nlohmann::json;

constexpr size_t kNameBytesMax = 64;  // of a key in a message

// Builds the tree and knows at every moment where it is.
class TreeBuilder final : public nlohmann::json_sax<json> {
 public:
  bool null() override { return Add(json()); }
  bool boolean(bool value) override { return Add(json(value)); }
  bool number_integer(number_integer_t value) override { return Add(json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Add(json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return Add(json(value)); }
  bool string(string_t& value) override { return Add(json(std::move(value))); }
  bool binary(binary_t&) override { return Fail("binary values are not JSON"); }
  bool start_object(size_t) override { return Open(json::object()); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    const bool twice = level.node->contains(name);
    level.key = std::move(name);
    level.in_value = true;
    return twice ? Fail("stands twice in one object") : true;
  }

  bool parse_error(size_t position, const std::string& token, const nlohmann::detail::exception& error) override {
    const absl::string_view what = error.what();
    if (error.id == 406) return Fail(absl::StrCat("the number ", token.substr(0, 40), " is too large"));
    if (absl::StrContains(what, "surrogate")) return Fail("holds half of a surrogate pair", position);
    if (absl::StrContains(what, "UTF-8")) return Fail("is not UTF-8", position);
    const absl::string_view read = token;
    const std::string seen = absl::CHexEscape(read.substr(read.size() - std::min<size_t>(read.size(), 16)));
    return Fail(absl::StrCat("not valid JSON", seen.empty() ? "" : absl::StrCat(", at the end of '", seen, "'")),
                position);
  }

  const absl::Status& status() const { return status_; }
  json TakeRoot() { return std::move(root_); }

 private:
  struct Level {
    json* node;
    std::string key;        // of an object: the one whose value comes or came last
    bool in_value = false;  // of an object: its value is awaited
  };

  // "messages[2].content"; empty at the top. Keys that would not look like a path are left as they are: messages then
  // have no field, which is true.
  std::string Path() const {
    std::string path;
    for (const Level& level : levels_) {
      if (level.node->is_array()) {
        absl::StrAppend(&path, "[", level.node->size() - (&level == &levels_.back() ? 0 : 1), "]");
      } else if (level.in_value) {
        absl::StrAppend(&path, path.empty() ? "" : ".", absl::CHexEscape(level.key.substr(0, kNameBytesMax)));
      }
    }
    return path;
  }

  bool Fail(absl::string_view what, size_t position = 0) {
    if (!status_.ok()) return false;
    const std::string path = Path();
    status_ = absl::InvalidArgumentError(absl::StrCat(path.empty() ? "the body" : path, ": ", what,
                                                      position == 0 ? "" : absl::StrCat(" (byte ", position, ")")));
    return false;
  }

  // Where the next value goes.
  json* Place(json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = levels_.back();
    if (level.node->is_array()) {
      level.node->push_back(std::move(value));
      return &level.node->back();
    }
    json& slot = (*level.node)[level.key];
    slot = std::move(value);
    return &slot;
  }

  bool Count() { return ++values_ <= kJsonValuesMax || Fail(absl::StrCat("more than ", kJsonValuesMax, " values")); }

  bool Add(json value) {
    if (!Count()) return false;
    Place(std::move(value));
    if (!levels_.empty()) levels_.back().in_value = false;
    return true;
  }
  bool Open(json value) {
    if (!Count()) return false;
    if (static_cast<int>(levels_.size()) >= limits::kJsonDepthMax) {
      return Fail(absl::StrCat("nested deeper than ", limits::kJsonDepthMax));
    }
    json* node = Place(std::move(value));
    levels_.push_back({node, "", false});
    return true;
  }
  bool Close() {
    levels_.pop_back();
    if (!levels_.empty()) levels_.back().in_value = false;
    return true;
  }

  json root_;
  std::vector<Level> levels_;
  int64_t values_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<json> ParseJsonBody(absl::string_view text) {
  // The parser takes a zero byte for the end and would not look at what follows it.
  if (const size_t zero = text.find('\0'); zero != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("the body: not valid JSON, a zero byte (byte ", zero + 1, ")"));
  }
  TreeBuilder builder;
  const bool parsed = json::sax_parse(text.begin(), text.end(), &builder);
  if (!builder.status().ok()) return builder.status();
  if (!parsed) return absl::InvalidArgumentError("the body: not valid JSON");
  json root = builder.TakeRoot();
  if (!root.is_object()) return absl::InvalidArgumentError("the body: must be a JSON object");
  return root;
}

}  // namespace conclave
