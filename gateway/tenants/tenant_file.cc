#include "gateway/tenants/tenant_file.h"

#include <yaml-cpp/yaml.h>

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/nearest_name.h"

namespace conclave {
namespace {

constexpr int kLimitMax = 1'000'000'000;
constexpr int kPriorityAbsMax = 1'000'000;
constexpr size_t kNameLettersMax = 64;

// Reads one file; errors name the line.
class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  absl::StatusOr<TenantTable> Read(const YAML::Node& root) {
    if (!root.IsMap()) return Bad(root, "expected `tenants:` and a list");
    RETURN_IF_ERROR(CheckNames(root, {"tenants"}));
    const YAML::Node list = root["tenants"];
    if (!list.IsDefined() || !list.IsSequence()) return Bad(root, "tenants: expected a list");
    const bool several = list.size() > 1;
    for (const YAML::Node& node : list) RETURN_IF_ERROR(ReadTenant(node, several));
    table_.tenants = names_.size();
    return std::move(table_);
  }

 private:
  absl::Status Bad(const YAML::Node& node, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, ":", node.Mark().line + 1, ": ", what));
  }

  absl::Status CheckNames(const YAML::Node& map, const std::vector<std::string>& known) const {
    std::set<std::string> seen;
    for (const auto& entry : map) {
      if (!entry.first.IsScalar()) return Bad(entry.first, "expected a name");
      const std::string& name = entry.first.Scalar();
      bool found = false;
      for (const std::string& each : known) found = found || each == name;
      if (!found) return Bad(entry.first, absl::StrCat("unknown name '", name, "'", DidYouMean(name, known)));
      if (!seen.insert(name).second) return Bad(entry.first, absl::StrCat(name, ": stands there twice"));
    }
    return absl::OkStatus();
  }

  // The whole number under `name`; unchanged where it is absent.
  absl::Status ReadInt(const YAML::Node& map, const std::string& name, int min, int max, int* value) const {
    const YAML::Node node = map[name];
    if (!node.IsDefined()) return absl::OkStatus();
    if (node.IsScalar() && absl::SimpleAtoi(node.Scalar(), value) && *value >= min && *value <= max) {
      return absl::OkStatus();
    }
    return Bad(node, absl::StrCat(name, ": expected a whole number in [", min, ", ", max, "]"));
  }

  absl::StatusOr<std::vector<std::string>> ReadList(const YAML::Node& map, const std::string& name) const {
    std::vector<std::string> values;
    const YAML::Node node = map[name];
    if (!node.IsDefined()) return values;
    if (!node.IsSequence()) return Bad(node, absl::StrCat(name, ": expected a list"));
    for (const YAML::Node& item : node) {
      if (!item.IsScalar() || item.Scalar().empty()) return Bad(item, absl::StrCat(name, ": expected texts"));
      values.push_back(item.Scalar());
    }
    return values;
  }

  absl::StatusOr<std::string> ReadText(const YAML::Node& map, const std::string& name) const {
    const YAML::Node node = map[name];
    if (!node.IsDefined()) return std::string();
    if (!node.IsScalar() || node.Scalar().empty() || node.Scalar().size() > kNameLettersMax) {
      return Bad(node, absl::StrCat(name, ": expected 1 to ", kNameLettersMax, " letters"));
    }
    return node.Scalar();
  }

  absl::Status ReadTenant(const YAML::Node& node, bool several) {
    if (!node.IsMap()) return Bad(node, "expected a tenant with name and keys");
    RETURN_IF_ERROR(CheckNames(node, {"name", "keys", "requests-per-minute", "tokens-per-minute", "requests-running",
                                      "priority", "models", "cache-salt"}));
    auto tenant = std::make_shared<Tenant>();
    ASSIGN_OR_RETURN(tenant->name, ReadText(node, "name"));
    for (const char c : tenant->name) {
      if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && !absl::StrContains("._-", c)) {
        return Bad(node, "name: expected letters, digits, dots, dashes and underscores only");
      }
    }
    if (tenant->name.empty()) return Bad(node, "a tenant needs a name");
    if (!names_.insert(tenant->name).second)
      return Bad(node, absl::StrCat("tenant ", tenant->name, " stands there twice"));
    RETURN_IF_ERROR(ReadInt(node, "requests-per-minute", 0, kLimitMax, &tenant->requests_per_minute_max));
    RETURN_IF_ERROR(ReadInt(node, "tokens-per-minute", 0, kLimitMax, &tenant->tokens_per_minute_max));
    RETURN_IF_ERROR(ReadInt(node, "requests-running", 0, kLimitMax, &tenant->requests_running_max));
    RETURN_IF_ERROR(ReadInt(node, "priority", -kPriorityAbsMax, kPriorityAbsMax, &tenant->priority));
    ASSIGN_OR_RETURN(tenant->allowed_models, ReadList(node, "models"));
    ASSIGN_OR_RETURN(tenant->cache_salt, ReadText(node, "cache-salt"));
    if (tenant->cache_salt.empty() && several) tenant->cache_salt = tenant->name;
    ASSIGN_OR_RETURN(const std::vector<std::string> keys, ReadList(node, "keys"));
    if (keys.empty()) return Bad(node, absl::StrCat("tenant ", tenant->name, " has no keys; `conclave key` makes one"));
    for (const std::string& text : keys) {
      absl::StatusOr<KeyHash> hash = ParseKeyHash(text);
      if (!hash.ok()) return Bad(node, absl::StrCat("keys of ", tenant->name, ": ", hash.status().message()));
      const std::string id = hash->id;
      if (!table_.keys.emplace(id, TenantKey{*std::move(hash), tenant}).second) {
        return Bad(node, absl::StrCat("the key ", id, " stands there twice"));
      }
    }
    return absl::OkStatus();
  }

  const std::string& path_;
  std::set<std::string> names_;
  TenantTable table_;
};

}  // namespace

absl::StatusOr<TenantTable> ParseTenantFile(const std::string& path, const std::string& text) {
  // yaml-cpp reports by exceptions; they end here.
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() != 1) return absl::InvalidArgumentError(absl::StrCat(path, ": expected one YAML document"));
    return Reader(path).Read(documents[0]);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ":", error.mark.line + 1, ": ", error.msg));
  }
}

}  // namespace conclave
