#include "gateway/tenants/key_authenticator.h"

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gateway/tenants/api_key.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

std::string FileOf(const std::vector<std::pair<std::string, std::string>>& tenants) {
  std::string text = "tenants:\n";
  for (const auto& [name, key] : tenants) {
    absl::StrAppend(&text, "  - name: ", name, "\n    keys: ['", ShowKeyHash(HashApiKey(key)), "']\n");
  }
  return text;
}

class KeyAuthenticatorTest : public ::testing::Test {
 protected:
  // As careful people replace a file.
  void Write(const std::string& text) {
    std::ofstream(path_ + ".new") << text;
    std::rename((path_ + ".new").c_str(), path_.c_str());
  }
  static std::string NameOf(const Authenticator& authenticator, const std::string& authorization) {
    const auto tenant = authenticator.Authenticate(authorization);
    return tenant.ok() ? (*tenant)->name : std::string(absl::StatusCodeToString(tenant.status().code()));
  }
  // Whether the authenticator comes to say so.
  static bool Comes(const Authenticator& authenticator, const std::string& key, const std::string& name) {
    for (int i = 0; i < 500; ++i, absl::SleepFor(absl::Milliseconds(10))) {
      if (NameOf(authenticator, "Bearer " + key) == name) return true;
    }
    return false;
  }

  const std::string path_ = TestFolder() + "/keys.yaml";
  const std::string a_ = NewApiKey(), b_ = NewApiKey();
};

TEST_F(KeyAuthenticatorTest, KnowsItsKeysAndNoOthers) {
  Write(FileOf({{"a", a_}, {"b", b_}}));
  const auto created = KeyAuthenticator::Create(path_, absl::Milliseconds(5));
  ASSERT_TRUE(created.ok()) << created.status();
  const Authenticator& authenticator = **created;
  EXPECT_EQ(NameOf(authenticator, "Bearer " + a_), "a");
  EXPECT_EQ(NameOf(authenticator, "bearer " + b_), "b");
  std::string near = a_;
  near.back() = near.back() == 'A' ? 'B' : 'A';
  const std::string mixed = a_.substr(0, 12) + b_.substr(12);  // a's id with b's secret
  for (const std::string& text :
       {std::string(), a_, "Bearer " + near, "Bearer " + mixed, "Bearer " + NewApiKey(), std::string("Bearer "),
        "Basic " + a_, "Bearer " + a_ + " ", std::string(100000, 'x')}) {
    EXPECT_EQ(NameOf(authenticator, text), "UNAUTHENTICATED") << text.substr(0, 100);
  }
  EXPECT_THAT(std::string(authenticator.Authenticate("").status().message()), HasSubstr("Authorization: Bearer"));
  EXPECT_EQ(std::string(authenticator.Authenticate("Bearer " + near).status().message()).find(near), std::string::npos);
}

TEST_F(KeyAuthenticatorTest, FollowsTheFileAndKeepsTheOldKeysWhereTheNewFileIsBroken) {
  Write(FileOf({{"a", a_}}));
  const auto created = KeyAuthenticator::Create(path_, absl::Milliseconds(5));
  ASSERT_TRUE(created.ok()) << created.status();
  const Authenticator& authenticator = **created;
  const auto held = authenticator.Authenticate("Bearer " + a_);
  Write(FileOf({{"b", b_}}));
  EXPECT_TRUE(Comes(authenticator, b_, "b"));
  EXPECT_EQ(NameOf(authenticator, "Bearer " + a_), "UNAUTHENTICATED");
  EXPECT_EQ((*held)->name, "a") << "who is in stays in";

  Write("tenants: [\n");
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(NameOf(authenticator, "Bearer " + b_), "b");
  std::remove(path_.c_str());
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(NameOf(authenticator, "Bearer " + b_), "b");
  Write(FileOf({{"a", a_}, {"b", b_}}));
  EXPECT_TRUE(Comes(authenticator, a_, "a"));
}

TEST_F(KeyAuthenticatorTest, AFileThatIsMissingOrWrongIsNamedAtTheStart) {
  EXPECT_THAT(std::string(KeyAuthenticator::Create("/nowhere/keys.yaml", absl::Seconds(1)).status().message()),
              HasSubstr("/nowhere/keys.yaml"));
  Write("tenants:\n  - name: x\n");
  EXPECT_THAT(std::string(KeyAuthenticator::Create(path_, absl::Seconds(1)).status().message()),
              HasSubstr(path_ + ":2"));
}

}  // namespace
}  // namespace conclave
