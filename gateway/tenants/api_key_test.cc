#include "gateway/tenants/api_key.h"

#include <set>

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(ApiKey, NewKeysAreDifferentAndHaveIds) {
  std::set<std::string> keys;
  for (int i = 0; i < 100; ++i) keys.insert(NewApiKey());
  EXPECT_EQ(keys.size(), 100u);
  for (const std::string& key : keys) {
    EXPECT_EQ(ApiKeyId(key).size(), 8u);
    EXPECT_EQ(key.size(), 55u);
  }
}

TEST(ApiKey, OtherTextsHaveNoId) {
  const std::string key = NewApiKey();
  for (const std::string& text : {std::string(), std::string("sk-abc"), key.substr(1), key + "x", "xx-" + key.substr(3),
                                  "ck-ABCDEF01" + key.substr(11), key.substr(0, 11) + "x" + key.substr(12)}) {
    EXPECT_EQ(ApiKeyId(text), "") << text;
  }
}

TEST(ApiKey, AHashMatchesItsKeyAndNoNeighbour) {
  const std::string key = NewApiKey();
  const KeyHash hash = HashApiKey(key);
  EXPECT_TRUE(MatchesApiKey(key, hash));
  for (size_t i = 0; i < key.size(); ++i) {
    std::string other = key;
    other[i] = other[i] == 'x' ? 'y' : 'x';
    EXPECT_FALSE(MatchesApiKey(other, hash)) << i;
  }
  EXPECT_FALSE(MatchesApiKey("", hash));
  EXPECT_NE(HashApiKey(key).hash, hash.hash) << "salted anew";
}

TEST(ApiKey, HashLinesReadBackAndHoldNothingOfTheSecret) {
  const std::string key = NewApiKey();
  const std::string line = ShowKeyHash(HashApiKey(key));
  EXPECT_EQ(line.find(key.substr(12)), std::string::npos);
  const auto hash = ParseKeyHash(line);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_TRUE(MatchesApiKey(key, *hash));
  EXPECT_EQ(ShowKeyHash(*hash), line);
  for (const std::string& bad : {line.substr(1), line + "0", line.substr(0, line.size() - 1), std::string("sha256:::"),
                                 std::string(), "sha256:" + line, key}) {
    EXPECT_FALSE(ParseKeyHash(bad).ok()) << bad;
  }
}

// The hash of a fixed key, made with another implementation (Python's hashlib), so that files stay good.
TEST(ApiKey, TheHashIsSha256OfSaltAndKey) {
  const std::string key = "ck-01234567-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ";
  const auto hash = ParseKeyHash(
      "sha256:01234567:000102030405060708090a0b0c0d0e0f:"
      "97007cabe1149a4b164bfb8cf49986e9690376a03e02f61a3723e0513ac46e43");
  ASSERT_TRUE(hash.ok());
  EXPECT_TRUE(MatchesApiKey(key, *hash));
}

}  // namespace
}  // namespace conclave
