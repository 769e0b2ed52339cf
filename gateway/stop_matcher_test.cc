#include "gateway/stop_matcher.h"

#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

struct Found {
  std::string text;
  bool stopped = false;
  bool operator==(const Found&) const = default;
};

// Feeds `text` in pieces of `size` bytes.
Found Feed(const std::vector<std::string>& stops, const std::string& text, size_t size) {
  StopMatcher matcher(stops);
  Found found;
  for (size_t at = 0; at < text.size() && !found.stopped; at += size) {
    found.stopped = matcher.Append(absl::string_view(text).substr(at, size), &found.text);
  }
  if (!found.stopped) found.text += matcher.Flush();
  return found;
}

TEST(StopMatcher, WithoutStopsEverythingPassesAtOnce) {
  StopMatcher matcher({});
  std::string out;
  EXPECT_FALSE(matcher.Append("anything", &out));
  EXPECT_EQ(out, "anything");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, HoldsBackExactlyWhatMayBecomeAStop) {
  StopMatcher matcher({"END", "\n\n"});
  std::string out;
  EXPECT_FALSE(matcher.Append("some E", &out));
  EXPECT_EQ(out, "some ");
  EXPECT_FALSE(matcher.Append("N", &out));
  EXPECT_EQ(out, "some ");
  EXPECT_FALSE(matcher.Append("E", &out));  // "ENE" is none, but its last letter may begin one
  EXPECT_EQ(out, "some EN");
  EXPECT_FALSE(matcher.Append("\n", &out));
  EXPECT_EQ(out, "some ENE");
  EXPECT_TRUE(matcher.Append("\n rest", &out));
  EXPECT_EQ(out, "some ENE");
}

TEST(StopMatcher, AnEndReleasesWhatWasHeld) {
  StopMatcher matcher({"stop"});
  std::string out;
  EXPECT_FALSE(matcher.Append("do not sto", &out));
  EXPECT_EQ(out, "do not ");
  EXPECT_EQ(matcher.Flush(), "sto");
}

TEST(StopMatcher, TheFirstToBeCompleteWinsAndTheLongestOfThose) {
  EXPECT_EQ(Feed({"abcd", "bc"}, "xabcd", 100), (Found{"xa", true}));
  EXPECT_EQ(Feed({"c", "abc"}, "xabcd", 100), (Found{"x", true}));
}

TEST(StopMatcher, TextsThatRepeatThemselvesAreFound) {
  EXPECT_EQ(Feed({"aab"}, "aaaaab", 1), (Found{"aaa", true}));
  EXPECT_EQ(Feed({"abab!"}, "abababab!", 2), (Found{"abab", true}));
}

// What a plain search over the whole text says: the match that ends first, and of those the longest.
Found Expected(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> begin;
    for (const std::string& stop : stops) {
      if (stop.size() > end || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      begin = begin.has_value() ? std::min(*begin, end - stop.size()) : end - stop.size();
    }
    if (begin.has_value()) return {text.substr(0, *begin), true};
  }
  return {text, false};
}

TEST(StopMatcher, WhatIsFoundDoesNotDependOnThePieces) {
  std::mt19937 random(7);
  const auto letters = [&random](size_t count) {
    std::string text(count, 'a');
    for (char& c : text) c = static_cast<char>('a' + random() % 2);
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < 1 + random() % 3; ++i) stops.push_back(letters(1 + random() % 7));
    const std::string text = letters(random() % 40);
    const Found expected = Expected(stops, text);
    stopped += expected.stopped;
    for (const size_t size : {1u, 2u, 3u, 5u, 100u}) ASSERT_EQ(Feed(stops, text, size), expected) << text;
  }
  EXPECT_GT(stopped, 500);
  EXPECT_LT(stopped, 2000);
}

}  // namespace
}  // namespace conclave
