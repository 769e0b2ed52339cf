#include "gateway/console/console.h"

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(ConsoleTest, ThePageAndItsFilesAreThere) {
  const ConsoleFile* page = FindConsoleFile("/");
  ASSERT_NE(page, nullptr);
  EXPECT_TRUE(absl::StartsWith(page->content, "<!doctype html>"));
  for (const char* path : {"/console.css", "/console.js", "/tokens.js"}) {
    ASSERT_NE(FindConsoleFile(path), nullptr) << path;
    EXPECT_TRUE(absl::StrContains(page->content, absl::string_view(path).substr(1))) << path;
  }
  EXPECT_EQ(FindConsoleFile("/console.h"), nullptr);
  EXPECT_EQ(FindConsoleFile(""), nullptr);
}

TEST(ConsoleTest, NothingOfItComesFromElsewhere) {
  for (const char* path : {"/", "/console.css", "/console.js", "/tokens.js"}) {
    const absl::string_view content = FindConsoleFile(path)->content;
    for (const char* outside : {"http://", "https://", "//cdn", "@import", "style=\""}) {
      EXPECT_FALSE(absl::StrContains(content, outside)) << path << " has " << outside;
    }
  }
}

}  // namespace
}  // namespace conclave
