#include "gateway/tenants/tenant_file.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string NewHash() { return ShowKeyHash(HashApiKey(NewApiKey())); }

std::string Good() {
  return absl::StrCat("tenants:\n  - name: research\n    keys: [\"", NewHash(), "\", \"", NewHash(),
                      "\"]\n    requests-per-minute: 600\n    tokens-per-minute: 100000\n    requests-running: 8\n"
                      "    priority: -5\n    models: [demo, other]\n  - name: guests\n    keys: [\"",
                      NewHash(), "\"]\n");
}

std::string Refusal(const std::string& text) {
  return std::string(ParseTenantFile("keys.yaml", text).status().message());
}

TEST(TenantFile, ReadsTenantsWithTheirKeysAndLimits) {
  const auto table = ParseTenantFile("keys.yaml", Good());
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->tenants, 2u);
  EXPECT_EQ(table->keys.size(), 3u);
  int research = 0;
  for (const auto& [id, key] : table->keys) {
    EXPECT_EQ(id, key.hash.id);
    if (key.tenant->name == "guests") {
      EXPECT_EQ(key.tenant->requests_per_minute_max, 0);
      continue;
    }
    ++research;
    EXPECT_EQ(key.tenant->requests_per_minute_max, 600);
    EXPECT_EQ(key.tenant->tokens_per_minute_max, 100000);
    EXPECT_EQ(key.tenant->requests_running_max, 8);
    EXPECT_EQ(key.tenant->priority, -5);
    EXPECT_THAT(key.tenant->allowed_models, ElementsAre("demo", "other"));
  }
  EXPECT_EQ(research, 2);
}

TEST(TenantFile, CachesAreSaltedOnceThereAreTwoTenants) {
  const auto two = ParseTenantFile("k", Good());
  for (const auto& [id, key] : two->keys) EXPECT_EQ(key.tenant->cache_salt, key.tenant->name);
  const auto one = ParseTenantFile("k", absl::StrCat("tenants:\n- name: a\n  keys: ['", NewHash(), "']\n"));
  EXPECT_EQ(one->keys.begin()->second.tenant->cache_salt, "");
  const auto own = ParseTenantFile("k", absl::StrCat(Good(), "    cache-salt: shared\n"));
  for (const auto& [id, key] : own->keys) {
    EXPECT_EQ(key.tenant->cache_salt, key.tenant->name == "guests" ? "shared" : "research");
  }
}

TEST(TenantFile, JsonWillDo) {
  const auto table = ParseTenantFile(
      "keys.json", absl::StrCat(R"({"tenants": [{"name": "a", "keys": [")", NewHash(), R"("], "priority": 3}]})"));
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->keys.begin()->second.tenant->priority, 3);
}

TEST(TenantFile, AFileWithoutTenantsLetsNobodyIn) {
  const auto table = ParseTenantFile("keys.yaml", "tenants: []\n");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_TRUE(table->keys.empty());
}

TEST(TenantFile, SaysWhatIsWrongAndWhere) {
  const std::string hash = NewHash();
  const std::string tenant = absl::StrCat("  - name: a\n    keys: ['", hash, "']\n");
  EXPECT_THAT(Refusal(""), HasSubstr("keys.yaml"));
  EXPECT_THAT(Refusal("- a\n"), HasSubstr("keys.yaml:1: expected `tenants:`"));
  EXPECT_THAT(Refusal("tenants: 3\n"), HasSubstr("expected a list"));
  EXPECT_THAT(Refusal("tenant: []\n"), HasSubstr("unknown name 'tenant'; did you mean tenants?"));
  EXPECT_THAT(Refusal("tenants:\n  - {\n"), HasSubstr("keys.yaml:"));
  EXPECT_THAT(Refusal("tenants:\n  - keys: []\n"), HasSubstr("keys.yaml:2: a tenant needs a name"));
  EXPECT_THAT(Refusal("tenants:\n  - name: a\n"), HasSubstr("tenant a has no keys"));
  EXPECT_THAT(Refusal("tenants:\n  - name: 'a b'\n"), HasSubstr("name: expected letters"));
  EXPECT_THAT(Refusal(absl::StrCat("tenants:\n", tenant, tenant)), HasSubstr("tenant a stands there twice"));
  EXPECT_THAT(Refusal(absl::StrCat("tenants:\n", tenant, absl::StrReplaceAll(tenant, {{"name: a", "name: b"}}))),
              HasSubstr("stands there twice"));
  EXPECT_THAT(Refusal(absl::StrCat("tenants:\n", tenant, "    name: c\n")), HasSubstr("name: stands there twice"));
  EXPECT_THAT(Refusal(absl::StrCat("tenants:\n", tenant, "    token-per-minute: 1\n")),
              HasSubstr("did you mean tokens-per-minute?"));
  for (const char* value : {"-1", "x", "1.5", "99999999999", "[1]"}) {
    EXPECT_THAT(Refusal(absl::StrCat("tenants:\n", tenant, "    requests-running: ", value, "\n")),
                HasSubstr("keys.yaml:4: requests-running: expected a whole number"))
        << value;
  }
  EXPECT_THAT(Refusal("tenants:\n  - name: a\n    keys: [secret]\n"), HasSubstr("expected sha256:ID:SALT:HASH"));
  EXPECT_THAT(Refusal("tenants: []\n---\ntenants: []\n"), HasSubstr("one YAML document"));
}

}  // namespace
}  // namespace conclave
