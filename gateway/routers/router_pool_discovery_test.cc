#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gateway/routers/router_pool_fixture_for_test.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Services that a file names, which a test writes anew.
class RouterPoolFileTest : public RouterPoolTest {
 protected:
  void List(const std::vector<int>& routers) {
    const std::string path = TestFolder() + "/routers";
    {
      std::ofstream file(path + ".new");
      for (const int router : routers) file << routers_[static_cast<size_t>(router)]->address << "\n";
    }
    ASSERT_EQ(std::rename((path + ".new").c_str(), path.c_str()), 0);
    options_.addresses = {"file://" + path};
  }
  void StartListed(const std::vector<int>& listed, int count) {
    for (int i = 0; i < count; ++i) {
      routers_.push_back(std::make_unique<FakeRouter>());
      routers_.back()->Answer(Decoding());
    }
    List(listed);
    options_.poll_interval = options_.discovery_interval = absl::Milliseconds(20);
    pool_ = RouterPool::Create(options_, *metrics_);
  }
  bool Forgets(int router) {
    const std::string series =
        absl::StrCat("router_up{router=\"", routers_[static_cast<size_t>(router)]->address, "\"}");
    for (int i = 0; i < 1000 && absl::StrContains(metrics_->Text(), series); ++i)
      absl::SleepFor(absl::Milliseconds(10));
    return !absl::StrContains(metrics_->Text(), series);
  }
  void ExpectAnswer() {
    const auto recorder = std::make_shared<Recorder>();
    Decode(recorder);
    ASSERT_TRUE(recorder->Ends());
    EXPECT_TRUE(recorder->end.ok()) << recorder->end;
    EXPECT_EQ(recorder->ids(), Whole());
  }
};

TEST_F(RouterPoolFileTest, ServicesComeAndGoAndStreamsMoveOn) {
  StartListed({0}, 3);
  ASSERT_TRUE(pool_->WaitUntilServing(absl::Now() + absl::Seconds(10)).ok());
  routers_[0]->Answer(Decoding(/*until=*/4));
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder);
  ASSERT_TRUE(recorder->Gets(4));
  // Each is replaced by another under a new address, as in a cluster that gives a new one to whoever starts anew.
  List({0, 1});
  ASSERT_TRUE(Says("router_up", routers_[1]->address, 1));
  routers_[1]->Answer(Decoding(/*until=*/8));
  routers_[0]->Stop();
  List({1, 2});
  ASSERT_TRUE(recorder->Gets(8));
  ASSERT_TRUE(Says("router_up", routers_[2]->address, 1));
  EXPECT_TRUE(Forgets(0));
  routers_[1]->Stop();
  List({2});
  ASSERT_TRUE(recorder->Ends());
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  EXPECT_EQ(recorder->ids(), Whole());
  EXPECT_TRUE(Forgets(1));
  EXPECT_THAT(pool_->addresses(), ElementsAre(routers_[2]->address));
}

TEST_F(RouterPoolFileTest, AServiceThatIsNotListedAnyMoreIsUsedWhileItIsThere) {
  StartListed({0, 1}, 2);
  ASSERT_TRUE(Says("router_up", routers_[0]->address, 1));
  ASSERT_TRUE(Says("router_up", routers_[1]->address, 1));
  List({});
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(pool_->addresses().size(), 2u);
  ExpectAnswer();
  routers_[0]->Stop();
  EXPECT_TRUE(Forgets(0));
  ExpectAnswer();
}

TEST_F(RouterPoolFileTest, PlacesAreUsedAgain) {
  StartListed({0}, 1);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(Says("router_up", routers_[0]->address, 1));
    const std::string address = routers_[0]->address;
    routers_[0]->Stop();
    List({});
    ASSERT_TRUE(Forgets(0));
    EXPECT_THAT(std::string(pool_->WaitUntilServing(absl::Now()).status().message()), HasSubstr("none is listed"));
    routers_[0] = std::make_unique<FakeRouter>(address);
    routers_[0]->Answer(Decoding());
    List({0});
  }
  ASSERT_TRUE(Says("router_up", routers_[0]->address, 1));
  ExpectAnswer();
}

}  // namespace
}  // namespace conclave
