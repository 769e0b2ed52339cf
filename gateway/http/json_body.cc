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

// Walks over valid JSON.
class Scanner {
 public:
  explicit Scanner(absl::string_view text) : text_(text) {}

  char Peek() {
    while (at_ < text_.size() && absl::StrContains(" \t\r\n", text_.substr(at_, 1))) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  // Skips a bracket, a comma or a colon. False: something else comes.
  bool Take(char mark) {
    if (Peek() != mark) return false;
    ++at_;
    return true;
  }
  // Skips one value and returns its text.
  absl::string_view Value() {
    Peek();
    const size_t begin = at_;
    int depth = 0;
    for (bool in_string = false; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (in_string) {
        if (c == '\\') ++at_;
        in_string = c != '"';
        if (!in_string && depth == 0) return text_.substr(begin, ++at_ - begin);
      } else if (c == '"') {
        in_string = true;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (c == '}' || c == ']') {
        if (depth == 0) break;
        if (--depth == 0) return text_.substr(begin, ++at_ - begin);
      } else if (depth == 0 && absl::StrContains(", \t\r\n:", text_.substr(at_, 1))) {
        break;
      }
    }
    return text_.substr(begin, at_ - begin);
  }

 private:
  const absl::string_view text_;
  size_t at_ = 0;
};

}  // namespace

std::vector<absl::string_view> ListItemTexts(absl::string_view body, absl::string_view key) {
  Scanner scanner(body);
  std::vector<absl::string_view> items;
  const std::string quoted = absl::StrCat("\"", key, "\"");
  scanner.Take('{');
  do {
    const bool found = scanner.Value() == quoted;
    scanner.Take(':');
    if (!found) {
      scanner.Value();
      continue;
    }
    if (!scanner.Take('[') || scanner.Peek() == ']') return items;
    do items.push_back(scanner.Value());
    while (scanner.Take(','));
    return items;
  } while (scanner.Take(','));
  return items;
}

absl::string_view JsonMember(absl::string_view object, absl::string_view name) {
  Scanner scanner(object);
  if (!scanner.Take('{') || scanner.Peek() == '}') return "";
  do {
    const absl::string_view key = scanner.Value();
    scanner.Take(':');
    const absl::string_view value = scanner.Value();
    // A name may be written with escapes.
    if (json::parse(key.begin(), key.end()).get_ref<const std::string&>() == name) return value;
  } while (scanner.Take(','));
  return "";
}

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
