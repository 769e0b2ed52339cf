#include "moe/base/test_folder.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace conclave {
namespace {

// In a process of its own: the folder that it had, once it has ended.
std::string FolderOfAnotherProcess() {
  int ends[2];
  if (pipe(ends) != 0) return "";
  if (fork() == 0) {
    const std::string folder = TestFolder();
    std::ofstream(folder + "/file") << "text";
    const bool whole = std::filesystem::exists(folder + "/file") &&
                       write(ends[1], folder.data(), folder.size()) == static_cast<ssize_t>(folder.size());
    std::exit(whole ? 0 : 1);
  }
  close(ends[1]);
  char text[4096];
  const ssize_t size = read(ends[0], text, sizeof(text));
  close(ends[0]);
  int status = 1;
  wait(&status);
  return status == 0 && size > 0 ? std::string(text, static_cast<size_t>(size)) : "";
}

// First of all: children of a process that has one share it.
TEST(TestFolderTest, IsOfOneProcessAndGoesWithIt) {
  const std::string one = FolderOfAnotherProcess(), other = FolderOfAnotherProcess();
  ASSERT_NE(one, "");
  ASSERT_NE(other, "");
  EXPECT_NE(one, other);
  EXPECT_FALSE(std::filesystem::exists(one));
}

TEST(TestFolderTest, AChildThatEndsLeavesItsParentsFolderAlone) {
  const std::string folder = TestFolder();
  if (fork() == 0) std::exit(TestFolder() == folder ? 0 : 1);
  int status = 1;
  wait(&status);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(std::filesystem::is_directory(folder));
}

}  // namespace
}  // namespace conclave
