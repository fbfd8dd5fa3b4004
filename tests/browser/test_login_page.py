"""The login in a real browser: under the page's own content policy, from the address that was asked for and back to it."""

from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from collector.tokens import Tokens
from tests.browser.test_page import complaints, page, pytestmark, text, until  # noqa: F401 - fixture and mark
from tests.served_page import Page


def test_a_person_logs_in_comes_to_the_run_that_was_asked_for_and_is_led_back_when_the_login_ends(
    page: Chrome,  # noqa: F811
    tmp_path: Path,
) -> None:
    tokens = Tokens(tmp_path / "keys")
    tokens.make()
    served = Page(tmp_path, tokens)
    served.feed._keep_alive_seconds = 0.2
    origin = f"http://127.0.0.1:{served.port}"
    page.get(f"{origin}/runs/absent")
    until(lambda: page.current_url == f"{origin}/login#/runs/absent")
    page.find_element(By.ID, "token").send_keys("a guess", Keys.ENTER)
    until(lambda: "This token opens nothing here" in text(page, "#refusal"))
    page.find_element(By.ID, "token").send_keys(tokens.text("read"), Keys.ENTER)  # what was typed before is selected
    until(lambda: page.current_url == f"{origin}/runs/absent" and "No such run" in text(page, "main"))
    assert page.execute_script("return document.cookie") == "", "no script can read the cookie"
    page.get(origin)
    until(lambda: text(page, "#link") == "live")
    tokens.make(anew=True)
    until(lambda: page.current_url == f"{origin}/login#/")
    assert [line for line in complaints(page) if "Failed to load resource" not in line] == []
    served.close()
