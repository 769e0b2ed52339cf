#include "moe/daemon/config_file.h"

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// The message with which `text` is refused; empty where it is accepted.
std::string Refusal(const std::string& text) {
  const auto entries = ParseConfig("c.yaml", text);
  if (entries.ok()) return "";
  EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(entries.status().message());
}

TEST(Config, ReadsScalarsAndListsWithTheirLines) {
  const auto entries =
      ParseConfig("c.yaml", "# comment\nmodel: /models/a b\nthreads: 4\n\nshard: [a:1, 'b:2']\nlist:\n  - x\n");
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 4u);
  EXPECT_EQ((*entries)[0].name, "model");
  EXPECT_EQ((*entries)[0].line, 2);
  EXPECT_THAT((*entries)[0].values, ElementsAre("/models/a b"));
  EXPECT_EQ((*entries)[1].line, 3);
  EXPECT_FALSE((*entries)[1].is_list);
  EXPECT_THAT((*entries)[2].values, ElementsAre("a:1", "b:2"));
  EXPECT_TRUE((*entries)[2].is_list);
  EXPECT_THAT((*entries)[3].values, ElementsAre("x"));
  EXPECT_EQ((*entries)[3].line, 6);
}

TEST(Config, NothingInItIsFine) {
  EXPECT_EQ(Refusal(""), "");
  EXPECT_EQ(Refusal("# only a comment\n"), "");
  EXPECT_EQ(Refusal("---\n"), "");
}

TEST(Config, RefusesWhatAFlatFileNeverNeedsAndNamesTheLine) {
  EXPECT_THAT(Refusal("a: 1\nb: 2\na: 3\n"), StartsWith("c.yaml:3: 'a' stands there twice"));
  EXPECT_THAT(Refusal("a: 1\nb:\nc: 3\n"), HasSubstr("'b' has no value"));
  EXPECT_THAT(Refusal("a: &x 1\nb: *x\n"), StartsWith("c.yaml:1: anchors"));
  EXPECT_THAT(Refusal("a: 1\nb: {c: 1}\n"), StartsWith("c.yaml:2: 'b' is nested"));
  EXPECT_THAT(Refusal("a: [[1]]\n"), HasSubstr("list in a list"));
  EXPECT_THAT(Refusal("a: [{b: 1}]\n"), HasSubstr("nested"));
  EXPECT_THAT(Refusal("- a\n- b\n"), HasSubstr("got a list"));
  EXPECT_THAT(Refusal("just words\n"), HasSubstr("`name: value`"));
  EXPECT_THAT(Refusal("[a, b]: 1\n"), HasSubstr("a name cannot be a list"));
  EXPECT_THAT(Refusal("a: !!int 1\n"), HasSubstr("tags"));
  EXPECT_THAT(Refusal("a: 1\n---\nb: 2\n"), HasSubstr("more than one YAML document"));
  EXPECT_THAT(Refusal("a: [1, 2\n"), StartsWith("c.yaml:"));
  EXPECT_THAT(Refusal(std::string("a: 1\nb: 2\0c: 3\n", 15)), StartsWith("c.yaml:2: a control character"));
  EXPECT_THAT(Refusal("a: 1\n\x04"
                      "b: 2\n"),
              StartsWith("c.yaml:2: a control character"));
  EXPECT_THAT(Refusal("a: 1\n\tb: 2\n"), HasSubstr("c.yaml:2: not YAML"));
  EXPECT_THAT(Refusal("a: *nowhere\n"), HasSubstr("c.yaml:1: "));
}

TEST(Config, HostileTextIsRefusedQuickly) {
  std::string bomb = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 40; ++i) {
    absl::StrAppend(&bomb, "a", i, ": &a", i, " [*a", i - 1, ", *a", i - 1, "]\n");
  }
  const std::string many(200'000, '['), maps(200'000, '{'), question(200'000, '?');
  std::string indented, dashes;
  for (int i = 0; i < 500; ++i) absl::StrAppend(&indented, std::string(i, ' '), "a:\n");
  for (int i = 0; i < 100'000; ++i) dashes += "- ";
  const absl::Time start = absl::Now();
  for (const std::string& text : {bomb, many, maps, question, indented, dashes, "a: " + many, std::string(1000, '\0'),
                                  std::string("\xff\xfe\xfd"), std::string("a: \"\\x")}) {
    EXPECT_NE(Refusal(text), "") << testing::PrintToString(text.substr(0, 20));
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

TEST(Config, FilesThatCannotBeReadOrAreTooLargeAreNamed) {
  EXPECT_THAT(std::string(ReadConfigFile("/nowhere/c.yaml").status().message()), HasSubstr("/nowhere/c.yaml"));
  EXPECT_FALSE(ReadConfigFile("/").ok());
  const std::string path = absl::StrCat(TestFolder(), "/large.yaml");
  std::ofstream(path) << std::string(kFlagsFileBytesMax + 1, '#');
  EXPECT_THAT(std::string(ReadConfigFile(path).status().message()), HasSubstr("larger than"));
}

}  // namespace
}  // namespace conclave
