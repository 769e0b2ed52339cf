#include "moe/daemon/config_file.h"

#include <cerrno>
#include <cstring>
#include <exception>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/exceptions.h"
#include "yaml-cpp/mark.h"
#include "yaml-cpp/parser.h"

namespace conclave {
namespace {

// Thrown out of the event handler through yaml-cpp, which offers no other way to stop, and caught in ParseConfig.
struct Refusal : std::exception {
  Refusal(int line, std::string reason) : line(line), reason(std::move(reason)) {}
  int line;
  std::string reason;
};

// Takes yaml-cpp's events one by one, so that no tree is built and the first thing we do not want ends the parse.
class FlatHandler final : public YAML::EventHandler {
 public:
  std::vector<ConfigEntry> entries;

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    if (depth_ == 0) return;  // A file of comments.
    throw Refusal(Line(mark), have_name_ ? absl::StrCat("'", name_, "' has no value") : "a name is missing");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw Refusal(Line(mark), "aliases are not supported");
  }
  void OnAnchor(const YAML::Mark& mark, const std::string&) override {
    throw Refusal(Line(mark), "anchors are not supported");
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    CheckTag(mark, tag);
    if (depth_ == 0) throw Refusal(Line(mark), "expected lines of the form `name: value`");
    if (in_list_) {
      entries.back().values.push_back(value);
    } else if (!have_name_) {
      SetName(mark, value);
    } else {
      entries.push_back({name_, {value}, false, name_line_});
      have_name_ = false;
    }
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    CheckTag(mark, tag);
    if (depth_ == 0) throw Refusal(Line(mark), "expected lines of the form `name: value`, got a list");
    if (in_list_) throw Refusal(Line(mark), absl::StrCat("'", name_, "' is a list in a list"));
    if (!have_name_) throw Refusal(Line(mark), "a name cannot be a list");
    entries.push_back({name_, {}, true, name_line_});
    in_list_ = true;
  }
  void OnSequenceEnd() override { in_list_ = have_name_ = false; }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    CheckTag(mark, tag);
    if (depth_ > 0) throw Refusal(Line(mark), absl::StrCat("'", name_, "' is nested; write a single value or a list"));
    ++depth_;
  }
  void OnMapEnd() override { --depth_; }

 private:
  static int Line(const YAML::Mark& mark) { return mark.line + 1; }

  // "?" and "!" are what yaml-cpp gives to plain and quoted values without a tag.
  static void CheckTag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.size() > 1) throw Refusal(Line(mark), "tags are not supported");
  }

  void SetName(const YAML::Mark& mark, const std::string& name) {
    if (!names_.insert(name).second) throw Refusal(Line(mark), absl::StrCat("'", name, "' stands there twice"));
    name_ = name;
    name_line_ = Line(mark);
    have_name_ = true;
  }

  int depth_ = 0;
  bool in_list_ = false;
  bool have_name_ = false;
  std::string name_;
  int name_line_ = 0;
  std::set<std::string> names_;
};

absl::Status Refused(const std::string& path, int line, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat(path, ":", line, ": ", reason));
}

// YAML allows no control characters, and yaml-cpp would take some of them for the end of the file. 0xFE and 0xFF, which
// no UTF-8 text holds, would make it read UTF-16.
absl::Status CheckCharacters(const std::string& path, const std::string& text) {
  int line = 1;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    line += c == '\n';
    if ((byte < 0x20 && c != '\n' && c != '\r' && c != '\t') || byte == 0x7f || byte >= 0xfe) {
      return Refused(path, line, "a control character, or not UTF-8");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<ConfigEntry>> ParseConfig(const std::string& path, const std::string& text) {
  RETURN_IF_ERROR(CheckCharacters(path, text));
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    FlatHandler handler;
    if (parser.HandleNextDocument(handler)) {
      FlatHandler second;
      if (parser.HandleNextDocument(second)) {
        return absl::InvalidArgumentError(absl::StrCat(path, ": holds more than one YAML document"));
      }
    }
    return std::move(handler.entries);
  } catch (const Refusal& refusal) {
    return Refused(path, refusal.line, refusal.reason);
  } catch (const YAML::Exception& error) {
    return Refused(path, error.mark.is_null() ? 1 : error.mark.line + 1, absl::StrCat("not YAML: ", error.msg));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not YAML: ", error.what()));
  }
}

absl::StatusOr<std::vector<ConfigEntry>> ReadConfigFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kFlagsFileBytesMax + 1, '\0');
  if (!file.is_open() || (!file.read(text.data(), static_cast<std::streamsize>(text.size())) && !file.eof())) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read the configuration file ", path, ": ", strerror(errno)));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  if (static_cast<int64_t>(text.size()) > kFlagsFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": larger than ", kFlagsFileBytesMax, " bytes, which no configuration file needs"));
  }
  return ParseConfig(path, text);
}

}  // namespace conclave
